"""Seeded damage to small valid files: they load, or one sentence says that they do not."""

import contextlib
import signal
import tracemalloc

import numpy as np
import pytest
from archive_files import FORMATS, save, tensors

from ldm_jax.interop.archive import open_checkpoint

pytest.importorskip("torch")

MUTATIONS = 300
SECONDS = 60  # a hang would be one; the whole loop takes about 3


def flip(random, data):
    for _ in range(random.choice([1, 1, 2, 8])):
        data[random.integers(len(data))] ^= 1 << random.integers(8)


def replace(random, data):
    at = random.integers(len(data))
    data[at : at + 8] = random.bytes(random.choice([1, 4, 8]))


def cut(random, data):
    del data[random.integers(len(data)) :]


def drop(random, data):
    at = random.integers(len(data))
    del data[at : at + random.choice([1, 2, 16, 1000])]


def insert(random, data):
    at = random.integers(len(data))
    data[at:at] = random.bytes(random.choice([1, 2, 16, 1000]))


def repeat(random, data):
    at = random.integers(len(data))
    data[at:at] = data[at : at + random.choice([1, 10, 200])]


def mutate(random, content, telling):
    """`content` with one kind of damage, mostly in the `telling` parts of it."""
    data = bytearray(content)
    change = random.choice([flip, flip, replace, cut, drop, insert, repeat])
    start, end = telling[random.integers(len(telling))]
    part = data[start:end]
    change(random, part)
    return bytes(data[:start] + part + data[end:])


def telling_parts(content, layout):
    """Where a format's structure is; weights are most of a file and tell nothing."""
    everything = (0, len(content))
    if layout == "torch zip":
        return [everything, (0, 1500), (len(content) - 1500, len(content))]
    if layout == "torch legacy":
        return [everything, (0, 1500), (0, 1500)]
    return [everything, (0, 600), (0, 600)]


def read_all(path):
    """Peak of memory while everything is read, one tensor at a time."""
    tracemalloc.start()
    try:
        with contextlib.suppress(ValueError, OSError):
            for tensor in open_checkpoint(path).tensors.values():
                tensor.sum()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture
def no_hang():
    def ring(*_):
        raise TimeoutError(f"still reading after {SECONDS} s")

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)


@pytest.mark.filterwarnings("ignore")  # of sums of damaged numbers, of escapes in texts
@pytest.mark.parametrize("layout", FORMATS)
def test_damaged_files_load_or_are_refused_in_one_sentence(tmp_path, layout, no_hang):
    path = save(tensors(), tmp_path / "model.ckpt", layout)
    content = path.read_bytes()
    read_all(path)  # what Python keeps for good
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(MUTATIONS):
        damaged = mutate(random, content, telling_parts(content, layout))
        path.write_bytes(damaged)
        try:
            for tensor in open_checkpoint(path).tensors.values():
                assert np.isscalar(tensor.sum())
        except (ValueError, OSError) as error:
            refused += 1
            message = str(error)
            assert str(path) in message and "\n" not in message, message
            assert len(message) < 500 + len(str(path)), message
        assert read_all(path) < 4 * max(len(damaged), len(content))
    assert MUTATIONS // 3 < refused < MUTATIONS  # both outcomes were seen
