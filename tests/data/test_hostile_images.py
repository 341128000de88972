"""Pictures that are made to hurt: refused by name before they are decoded, or harmless."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from odd_images import encode, solid
from PIL import Image

from ldm_jax.data.images import MAX_PIXELS, CorruptImage, decode_pixels
from ldm_jax.data.sources import open_source
from ldm_jax.data.transforms import SquareImage

MIB = 2**20


def chunk(kind: bytes, body: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + body))
    return struct.pack(">I", len(body)) + kind + body + check


def png(width, height, *, kind=0, extra=()):
    """A PNG of zeros that states its size, compressed a thousandfold."""
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    packer = zlib.compressobj(9)
    row = bytes(1 + width)
    data = b"".join(packer.compress(row) for _ in range(min(height, 50_000)))
    chunks = [(b"IHDR", header), *extra, (b"IDAT", data + packer.flush())]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in [*chunks, (b"IEND", b"")])


def peak(fn):
    """Python's own memory while `fn` fails or not; Pillow's pixels are not in it."""
    tracemalloc.start()
    try:
        fn()
    except CorruptImage as error:
        return tracemalloc.get_traced_memory()[1], str(error)
    finally:
        tracemalloc.stop()
    return None, ""


@pytest.mark.parametrize("size", [(12_000, 12_000), (30_000, 50_000), (2**31 - 1, 1)])
def test_bombs_are_refused_before_they_are_decoded(size, tmp_path):
    assert size[0] * size[1] > MAX_PIXELS
    header = png(16, 16)
    bomb = header[:16] + struct.pack(">II", *size) + header[24:29]
    bomb += struct.pack(">I", zlib.crc32(bomb[12:29])) + header[33:]
    used, message = peak(lambda: decode_pixels(bomb))
    assert used is not None and used < 4 * MIB
    assert "pixels" in message and "\n" not in message
    for name in ("a", "c"):
        (tmp_path / f"{name}.png").write_bytes(encode(solid("RGB", (8, 8), 9), "PNG"))
    (tmp_path / "b.png").write_bytes(bomb)
    source = open_source(f"folder:{tmp_path}")
    assert source[1]["name"] == "c.png"
    assert list(source.corrupt) == ["b.png"] and "pixels" in source.corrupt["b.png"]


@pytest.mark.parametrize(
    ("where", "body"),
    [
        (b"iCCP", b"icc\0\0" + zlib.compress(bytes(300 * MIB), 9)),
        (b"zTXt", b"text\0\0" + zlib.compress(bytes(300 * MIB), 9)),
    ],
)
def test_bombs_in_metadata_are_not_unpacked(where, body):
    encoded = png(8, 8, extra=[(where, body)])
    tracemalloc.start()
    try:
        decode_pixels(encoded)
    except CorruptImage as error:
        assert "\n" not in str(error)
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert used < 16 * MIB


def test_programs_are_not_started_by_pictures():
    """EPS would be handed to Ghostscript."""
    buffer = io.BytesIO()
    solid("RGB", (8, 8), "red").save(buffer, "EPS")
    with pytest.raises(CorruptImage, match="it is none of"):
        decode_pixels(buffer.getvalue())


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1)])
@pytest.mark.parametrize("resize", ["smallest", "smallest_antialias", "square_bicubic"])
def test_strips_cost_no_more_than_squares(size, resize):
    pixels = decode_pixels(png(*size))
    square = SquareImage(64, resize)({"image": pixels}, np.random.default_rng(0))
    assert square["image"].shape == (64, 64, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_every_cut_of_a_picture_is_a_picture_or_one_error(kind):
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    encoded = encode(Image.fromarray(noise), kind)
    refused = 0
    for length in range(0, len(encoded), max(1, len(encoded) // 100)):
        try:
            assert decode_pixels(encoded[:length]).shape == (24, 24, 3)
        except CorruptImage:
            refused += 1
    assert refused > 50


def test_pictures_without_area_are_refused():
    for size in ((0, 5), (5, 0), (0, 0)):
        header = png(5, 5)
        empty = header[:16] + struct.pack(">II", *size) + header[24:29]
        empty += struct.pack(">I", zlib.crc32(empty[12:29])) + header[33:]
        with pytest.raises(CorruptImage):
            decode_pixels(empty)


def test_captions_that_name_files_outside_open_nothing(tmp_path, caplog):
    inside = tmp_path / "pictures"
    inside.mkdir()
    (tmp_path / "secret.txt").write_text("secret")
    (inside / "a.png").write_bytes(encode(solid("RGB", (8, 8), 9), "PNG"))
    lines = [
        '{"file_name": "../secret.txt", "caption": "up"}',
        f'{{"file_name": "{tmp_path}/secret.txt", "caption": "absolute"}}',
        '{"file_name": "a.png", "caption": "inside"}',
    ]
    (inside / "metadata.jsonl").write_text("\n".join(lines))
    source = open_source(f"folder:{inside}")
    assert [source.annotation(i)["caption"] for i in range(len(source))] == ["inside"]
    assert "2 captions" in caplog.text
