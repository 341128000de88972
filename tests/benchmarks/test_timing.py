"""The harness: order of calls, medians, ratios, the table and its JSON."""

import json
import math

import pytest

from benchmarks import __main__ as command
from benchmarks.rows import Case, Row, Setting, Sides, rows_of, table, write_json
from benchmarks.timing import alternate, medians


class Clock:
    """Seconds that calls say they take, and who was called."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def __call__(self):
        return self.now

    def takes(self, name, *seconds):
        seconds = iter(seconds)

        def call():
            self.calls.append(name)
            self.now += next(seconds)

        return call


def test_calls_alternate_and_the_first_of_each_is_not_timed():
    clock = Clock()
    calls = {"a": clock.takes("a", 100, 1, 2, 6), "b": clock.takes("b", 100, 3, 3, 3)}
    taken = alternate(calls, seconds=0, min_rounds=3, clock=clock)
    assert clock.calls == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert taken == {"a": [1, 2, 6], "b": [3, 3, 3]}
    assert medians(taken) == {"a": 2, "b": 3}


def test_rounds_go_on_for_the_time_given_and_no_longer():
    clock = Clock()
    taken = alternate({"a": clock.takes("a", *[1.0] * 99)}, seconds=10, clock=clock)
    assert len(taken["a"]) == 11
    clock = Clock()
    calls = {"a": clock.takes("a", *[1.0] * 99)}
    assert len(alternate(calls, seconds=99, max_rounds=5, clock=clock)["a"]) == 5


def test_the_ratio_is_above_one_where_ours_takes_less_time():
    sides = Sides(lambda: None, {"theirs": lambda: None}, amount=8, unit="images")
    (row,) = rows_of("U-Net", sides, {"ours": 2.0, "theirs": 3.0})
    assert row.ratio == 1.5
    assert row.rate == 4.0
    assert "1.50" in table([row]) and "4 images/s" in table([row])


def test_without_references_a_row_has_no_ratio():
    (row,) = rows_of("U-Net", Sides(lambda: None, {}), {"ours": 0.25})
    assert math.isnan(row.ratio)
    assert "nan" not in table([row])
    assert "250 ms" in table([row])


def test_columns_are_aligned():
    rows = [Row("a", "eager", 1.0, 2.0), Row("a longer name", skipped="no memory")]
    widths = {len(line) for line in table(rows).splitlines()}
    assert len(widths) == 1


def test_json_has_null_where_there_is_no_figure(tmp_path):
    rows = [Row("a", "eager", 1.0, 2.0, 4.0), Row("b", skipped="needs 42 GB")]
    write_json(tmp_path / "rows.json", {"cores": 2}, rows)
    written = json.loads((tmp_path / "rows.json").read_text())
    assert written["machine"] == {"cores": 2}
    assert written["rows"][0]["ratio"] == 2.0
    assert written["rows"][1]["ours"] is None
    assert written["rows"][1]["skipped"] == "needs 42 GB"


def test_what_does_not_fit_is_skipped_with_the_reason():
    def never(setting):
        raise AssertionError("built although it does not fit")

    (row,) = command.measure(Case("large", never, gigabytes=1e6), Setting())
    assert "needs 1000000 GB" in row.skipped


def test_a_missing_package_is_the_reason_and_not_the_end():
    def make(setting):
        raise ModuleNotFoundError("No module named 'diffusers'")

    (row,) = command.measure(Case("a", make), Setting())
    assert row.skipped == "No module named 'diffusers'"


def test_an_unknown_reference_is_refused_in_one_sentence():
    with pytest.raises(SystemExit, match="no 'fast', choose of eager"):
        command.main(["--suite=tiny", "--references=fast"])
