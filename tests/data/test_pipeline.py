import multiprocessing
from contextlib import closing

import numpy as np
import pytest
from odd_images import CORRUPT, encode, solid

from ldm_jax.data.pipeline import eval_batches, make_loader
from ldm_jax.data.sources import open_source
from ldm_jax.data.transforms import SquareImage

BATCH = 8


class Numbers:
    """Pictures whose pixels say which they are."""

    class_names = ()

    def __len__(self):
        return 21

    def __getitem__(self, index):
        pixels = np.full((12, 16, 3), index, np.uint8)
        pixels[:, ::2] += 100  # so that crops and flips show
        pixels[::3] += 40
        return {"image": pixels, "index": index, "class_label": index % 3, "name": "x"}


TRANSFORM = SquareImage(8, "smallest_10", "random", 0.5)


def take(count, source=None, transform=TRANSFORM, **options):
    options = {"batch_size": BATCH, "seed": 3} | options
    source = Numbers() if source is None else source
    with closing(make_loader(source, transform, **options)) as loader:
        return [next(loader) for _ in range(count)]


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


@pytest.fixture(scope="module")
def reference():
    return take(7)  # two and a half epochs


def test_batches_hold_arrays_of_the_promised_types(reference):
    shapes = {name: (a.dtype.name, a.shape) for name, a in reference[0].items()}
    assert shapes == {
        "image": ("float32", (BATCH, 8, 8, 3)),
        "class_label": ("int32", (BATCH,)),
        "index": ("int32", (BATCH,)),
        "flip": ("int32", (BATCH,)),
        "crop_box": ("float32", (BATCH, 4)),
        "original_size": ("int32", (BATCH, 2)),
    }


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("start", [0, 2, 5])
def test_the_stream_is_a_function_of_seed_and_step(reference, hosts, start):
    parts = [
        take(
            len(reference) - start,
            start_step=start,
            rows=range(host * BATCH // hosts, (host + 1) * BATCH // hosts),
        )
        for host in range(hosts)
    ]
    joined = [
        {name: np.concatenate([part[name] for part in batch]) for name in batch[0]}
        for batch in zip(*parts, strict=True)
    ]
    assert_same(joined, reference[start:])


def test_workers_do_not_change_the_stream(reference):
    options = {"rows": range(BATCH // 2, BATCH), "start_step": 1}
    expected = take(3, **options)
    assert_same(take(3, num_workers=2, **options), expected)
    half = {name: array[BATCH // 2 :] for name, array in reference[1].items()}
    assert_same(expected[:1], [half])


def test_a_killed_worker_ends_the_stream_with_one_sentence():
    options = {"batch_size": BATCH, "seed": 3, "num_workers": 2}
    with closing(make_loader(Numbers(), TRANSFORM, **options)) as batches:
        next(batches)
        worker = max(multiprocessing.active_children(), key=lambda child: child.pid)
        worker.kill()
        with pytest.raises(
            ChildProcessError, match="exit code -9.*start the run again"
        ):
            for _ in range(1000):  # what is ready still comes
                next(batches)
        with pytest.raises(ChildProcessError):  # grain would leave a batch out
            next(batches)


def test_a_late_start_costs_no_reading_of_what_came_before():
    class Counting(Numbers):
        reads = 0

        def __getitem__(self, index):
            Counting.reads += 1
            return super().__getitem__(index)

    take(1, source=Counting(), start_step=10**9)
    assert Counting.reads < 20 * BATCH


def test_every_epoch_is_another_permutation():
    indices = np.concatenate([batch["index"] for batch in take(11)])
    epochs = [tuple(indices[start : start + 21]) for start in (0, 21, 42)]
    assert all(sorted(epoch) == list(range(21)) for epoch in epochs)
    assert len(set(epochs)) == 3
    other = np.concatenate([batch["index"] for batch in take(3, seed=4)])
    assert tuple(other[:21]) not in epochs


def test_a_picture_is_cropped_anew_in_every_epoch():
    batches = take(60, transform=SquareImage(8, "smallest_10", "random"))
    first = [
        image.tobytes()
        for batch in batches
        for image, index in zip(batch["image"], batch["index"], strict=True)
        if index == 0
    ]
    assert len(set(first)) > 5


def test_without_shuffling_the_source_comes_in_order():
    indices = np.concatenate([b["index"] for b in take(3, shuffle=False)])
    np.testing.assert_array_equal(indices, [*range(21), 0, 1, 2])


def test_a_source_smaller_than_the_batch_repeats():
    batches = take(2, batch_size=32)
    assert set(batches[0]["index"]) == set(range(21))


def test_rows_come_in_the_order_asked_for(reference):
    batches = take(2, rows=[3, 0, 2])
    expected = [{n: array[[3, 0, 2]] for n, array in b.items()} for b in reference[:2]]
    assert_same(batches, expected)


def test_an_empty_batch_is_an_error():
    with pytest.raises(ValueError, match="batch_size is 0"):
        take(1, batch_size=0)


def test_an_empty_source_is_an_error():
    class Empty(Numbers):
        def __len__(self):
            return 0

    with pytest.raises(ValueError, match="empty"):
        take(1, source=Empty())


def test_evaluation_sees_every_picture_once_in_order():
    transform = TRANSFORM.for_evaluation()
    batches = list(eval_batches(Numbers(), transform, batch_size=BATCH))
    assert [len(batch["image"]) for batch in batches] == [BATCH] * 3
    index = np.concatenate([batch["index"] for batch in batches])
    mask = np.concatenate([batch["mask"] for batch in batches])
    np.testing.assert_array_equal(index[mask == 1], range(21))
    assert mask.sum() == 21 and mask.dtype == np.float32


def test_evaluation_masks_the_stand_ins_of_corrupt_pictures(tmp_path):
    for name in ("a.png", "c.png", "d.png"):
        (tmp_path / name).write_bytes(encode(solid("RGB", (4, 4), "red"), "PNG"))
    (tmp_path / "b.png").write_bytes(CORRUPT["text.jpg"])
    source = open_source(f"folder:{tmp_path}")
    (batch,) = eval_batches(source, SquareImage(8), batch_size=4)
    np.testing.assert_array_equal(batch["mask"], [1, 0, 1, 1])
    np.testing.assert_array_equal(batch["index"], [0, 2, 2, 3])
    assert list(source.corrupt) == ["b.png"]


def test_an_error_of_the_source_reaches_the_caller(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"text")
    with pytest.raises(ValueError, match="too many unreadable"):
        take(1, source=open_source(f"folder:{tmp_path}"))


def test_a_batch_may_be_one_picture():
    batches = take(2, batch_size=1)
    assert [batch["image"].shape[0] for batch in batches] == [1, 1]
