"""Records of a run wait for room, and lose nothing meanwhile."""

import errno
import json
import resource

import numpy as np
import pytest

from ldm_jax.training import full_disk, hooks, metrics


class Disk:
    """Stands in for `_append`: full or not."""

    def __init__(self, monkeypatch):
        self.is_full, append = False, full_disk._append

        def write(path, data):
            if self.is_full:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            append(path, data)

        monkeypatch.setattr(full_disk, "_append", write)


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


def test_rows_wait_for_room_and_keep_their_order(disk, tmp_path, caplog):
    writer = metrics.JsonlWriter(tmp_path / "metrics.jsonl")
    for step in range(1, 9):
        disk.is_full = step in (3, 4, 6)
        writer.write_scalars(step, {"loss": float(step)})
        num_rows = len((tmp_path / "metrics.jsonl").read_text().splitlines())
        assert num_rows == {3: 2, 4: 2, 6: 5}.get(step, step)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert len(caplog.records) == 2  # one for each time that it was full
    disk.is_full = True
    writer.write_scalars(9, {"loss": 9.0})
    writer.close()
    assert "bytes of" in caplog.text and "are lost" in caplog.text


def test_tensorboard_goes_on_after_a_full_disk(disk, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = metrics.TensorBoardWriter(tmp_path)
    for step in range(1, 60):  # far more than tensorboardX keeps in its queue
        disk.is_full = 10 < step < 50
        writer.write_scalars(step, {"loss": float(step)})
        writer.write_image(step, "preview", np.zeros((40, 40, 3), np.uint8))
    writer.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 60))


def test_a_write_that_fails_halfway_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "file"
    full_disk._append(path, b"first")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            full_disk._append(path, bytes(200))  # of which 95 are written
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"first"


def test_hooks_are_left_out_only_while_the_disk_is_full(caplog):
    def raising(code):
        def hook(step, state, metrics):
            raise OSError(code, "some trouble")

        return hooks.unless_disk_full(hook)

    raising(errno.ENOSPC)(7, None, {})
    raising(errno.EDQUOT)(8, None, {})
    assert "left out at step 7" in caplog.text and "step 8" in caplog.text
    with pytest.raises(OSError, match="some trouble"):
        raising(errno.EACCES)(9, None, {})
