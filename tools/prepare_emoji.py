"""Rebuild assets/emoji64/emoji64.zip from the two npm packages it is made of.

    python tools/prepare_emoji.py                        # `npm pack` fetches both
    python tools/prepare_emoji.py --fluent=DIR --noto=DIR  # unpacked `package` folders

The archive holds one lossless 64x64 WebP per emoji and drawing style, and
`metadata.jsonl`, one object a line in the order of the pictures. With the Pillow and
libwebp versions named in assets/emoji64/README.md the same bytes come out again.
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

FLUENT = "@lobehub/fluent-emoji-3d@1.1.0"
NOTO = "emoji-datasource-google@16.0.0"
ARCHIVE = Path(__file__).resolve().parents[1] / "assets/emoji64/emoji64.zip"
SIDE = 64
MARGIN = 1  # pixels of the result left white around the drawing
SKIPPED_CATEGORIES = ("Flags", "Component")  # Component: the five skin tones


def fetch(package: str, folder: Path) -> Path:
    """Download an npm package with `npm pack`; return its unpacked folder."""
    target = folder / package.split("/")[-1].split("@")[0]
    target.mkdir()
    command = ["npm", "pack", "--silent", package]
    packed = subprocess.run(
        command, cwd=target, check=True, capture_output=True, text=True
    )
    with tarfile.open(target / packed.stdout.split()[-1]) as archive:
        archive.extractall(target, filter="data")
    return target / "package"


def key_of(code_points: str) -> str:
    """Code points without variation selectors or leading zeros: the packages differ."""
    parts = [part.lstrip("0") for part in code_points.lower().split("-")]
    return "-".join(part for part in parts if part != "fe0f")


def split_of(code_points: str) -> str:
    """Fixed split: a hash of the code points sends about one emoji in twenty to val."""
    digest = hashlib.sha256(code_points.encode()).digest()
    return "val" if int.from_bytes(digest[:4], "big") % 20 == 0 else "train"


def draw(path: Path) -> Image.Image:
    """Composite on white, crop the square around the content, resize to 64x64.

    The square is never smaller than three quarters of the canvas, so that a "small
    square" stays smaller than a "large square" and nothing is blown up.
    """
    drawing = Image.open(path).convert("RGBA")
    content_box = drawing.getchannel("A").getbbox()
    if content_box is None:
        raise OSError(f"{path} is a blank picture")
    left, top, right, bottom = content_box
    content = max(right - left, bottom - top) * SIDE / (SIDE - 2 * MARGIN)
    side = max(round(content), 3 * max(drawing.size) // 4)
    canvas = Image.new("RGBA", (side, side), "white")
    corner = ((side - right + left) // 2, (side - bottom + top) // 2)
    canvas.alpha_composite(drawing.crop((left, top, right, bottom)), corner)
    return canvas.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def records(fluent: Path, noto: Path) -> Iterator[tuple[dict, Path]]:
    """Metadata and drawing of every emoji, first all of Fluent, then all of Noto."""
    fluent_files = {key_of(path.stem): path for path in sorted(fluent.glob("*.webp"))}
    emojis = json.loads((noto / "emoji.json").read_text(encoding="utf-8"))
    emojis = [emoji for emoji in emojis if emoji["category"] not in SKIPPED_CATEGORIES]
    emojis.sort(key=lambda emoji: emoji["sort_order"])
    for style in ("3d", "flat"):
        for emoji in emojis:
            code_points = emoji["unified"].lower()
            path = noto / "img/google/64" / emoji["image"]
            if style == "3d":
                path = fluent_files.get(key_of(code_points))
            if path is None:  # newer than the Fluent set
                continue
            yield (
                {
                    "file_name": f"{style}/{code_points}.webp",
                    "code_points": code_points,
                    "name": emoji["name"].lower(),
                    "style": style,
                    "category": emoji["category"],
                    "subcategory": emoji["subcategory"],
                    "split": split_of(code_points),
                },
                path,
            )


def write_archive(output: Path, fluent: Path, noto: Path) -> Counter:
    """Write the archive; return the number of pictures by style and split."""
    counts, lines = Counter(), []
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, content: bytes) -> None:
            entry = zipfile.ZipInfo(name)  # dated 1980: bytes do not depend on today
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, content)

        for record, path in records(fluent, noto):
            encoded = io.BytesIO()
            draw(path).save(encoded, "WEBP", lossless=True, quality=100, method=6)
            add(record["file_name"], encoded.getvalue())
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
            counts[record["style"], record["split"]] += 1
        add("metadata.jsonl", "".join(lines).encode())
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fluent", type=Path, help=f"unpacked {FLUENT}")
    parser.add_argument("--noto", type=Path, help=f"unpacked {NOTO}")
    parser.add_argument("--output", type=Path, default=ARCHIVE)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            fluent = arguments.fluent or fetch(FLUENT, Path(folder))
            noto = arguments.noto or fetch(NOTO, Path(folder))
            partial = Path(folder) / "emoji64.zip"
            counts = write_archive(partial, fluent / "assets", noto)
            arguments.output.write_bytes(partial.read_bytes())
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", None) or error
            print(f"prepare_emoji: {str(reason).strip()}", file=sys.stderr)
            sys.exit(2)
    for (style, split), count in sorted(counts.items()):
        print(f"{style} {split}: {count}")
    digest = hashlib.sha256(arguments.output.read_bytes()).hexdigest()
    print(f"{arguments.output} sha256 {digest}")


if __name__ == "__main__":
    main()
