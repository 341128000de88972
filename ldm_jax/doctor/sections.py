"""A section of the report: rows of text, aligned, whatever happens while they are found."""

from collections.abc import Callable, Iterable

Row = tuple[str, str]


def render(name: str, examine: Callable[[], Iterable[Row]]) -> str:
    """The section's heading and its rows; a failure is a row, too, after those found."""
    rows = []
    try:
        for row in examine():
            rows += [row]
    except Exception as error:  # noqa: BLE001 - the other sections are to follow
        sentence = " ".join(str(error).split()) or "no reason given"
        rows.append(("could not go on", f"{type(error).__name__}: {sentence}"))
    width = max((len(label) for label, _ in rows), default=0)
    lines = [f"  {label:<{width}}  {text}".rstrip() for label, text in rows]
    return "\n".join([name, *lines, ""])


def size(num_bytes: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} GiB"
