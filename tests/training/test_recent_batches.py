"""Batches that were just taken come again."""

from ldm_jax.training.recent_batches import RecentBatches


def test_recent_batches_come_again():
    class Numbers:
        def __init__(self):
            self.numbers, self.is_closed = iter(range(11, 99)), False

        def __next__(self):
            return {"x": next(self.numbers)}

        def close(self):
            self.is_closed = True

    numbers = Numbers()
    recent = RecentBatches(numbers, first_step=10)
    assert [next(recent)["x"] for _ in range(4)] == [11, 12, 13, 14]
    recent.rewind(12)
    assert [next(recent)["x"] for _ in range(3)] == [13, 14, 15]
    assert recent.get(15) == {"x": 15} and recent.get(12) is None
    recent.close()
    assert numbers.is_closed
