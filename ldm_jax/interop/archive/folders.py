"""Which files in a component folder of a diffusers or transformers model are its weights."""

import json
from pathlib import Path

_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_SUFFIXES = ("safetensors", "bin")


def weight_files(folder: Path, variant: str = "") -> dict[Path, list[str] | None]:
    """The files to read, and of each the tensors to take (None for all).

    .safetensors goes before .bin, one file before an index of several. Without
    `variant` the plain files are taken, or the only variant that there is.

    Raises:
      ValueError: no weights, several variants, a whole pipeline, or a broken index.
    """
    found = _find(folder, variant)
    if found is None and not variant:
        variants = _variants(folder)
        if len(variants) > 1:
            raise ValueError(
                f"{folder} holds the weights in the variants {', '.join(variants)}: "
                "keep one of them"
            )
        found = _find(folder, variants[0]) if variants else None
    if found is None:
        raise ValueError(_nothing_in(folder, variant))
    return _read_index(found) if ".index." in found.name else {found: None}


def _find(folder: Path, variant: str) -> Path | None:
    dot = f".{variant}" if variant else ""
    for suffix in _SUFFIXES:
        for stem in _STEMS:
            # Indices have been named both ways.
            for name in (
                f"{stem}{dot}.{suffix}",
                f"{stem}.{suffix}.index{dot}.json",
                f"{stem}{dot}.{suffix}.index.json",
            ):
                if (folder / name).is_file():
                    return folder / name
    return None


def _variants(folder: Path) -> list[str]:
    """The words that stand between a stem and a suffix in `folder`."""
    found = set()
    for file in folder.iterdir():
        words = file.name.split(".")
        if words[-1] == "json" and "index" in words:
            words = [word for word in words[:-1] if word != "index"]
        stem, rest = words[0], [word for word in words[1:] if word not in _SUFFIXES]
        known = stem in _STEMS and len(words) - len(rest) == 2
        if known and len(rest) == 1 and _find(folder, rest[0]):
            found.add(rest[0])
    return sorted(found)


def _nothing_in(folder: Path, variant: str) -> str:
    if (folder / "model_index.json").is_file():
        return (
            f"{folder} is a whole pipeline: give one of its components, such as "
            f"{folder / 'unet'}"
        )
    wanted = f"of variant {variant} " if variant else ""
    names = sorted(file.name for file in folder.iterdir())
    listed = ", ".join(names[:8]) or "nothing"
    return (
        f"no weights {wanted}in the folder {folder}, which holds {listed}: it should "
        "have diffusion_pytorch_model.safetensors, model.safetensors or the .bin of one"
    )


def _read_index(index: Path) -> dict[Path, list[str] | None]:
    try:
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files: dict[Path, list[str] | None] = {}
        for tensor, name in shards.items():
            if Path(name).name != name:
                raise ValueError(f"{name!r} is not in the same folder")
            names = files.setdefault(index.parent / name, [])
            assert names is not None
            names.append(tensor)
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise ValueError(
            f"{index} is not a readable index of weight files ({error}): get it again"
        ) from error
    return files
