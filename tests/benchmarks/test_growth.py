"""Exponents and their table."""

import math

import pytest

from benchmarks.growth import Point, describe, exponent


@pytest.mark.parametrize("power", [-1.0, 0.0, 1.0, 2.5])
def test_the_exponent_of_a_power_is_found(power):
    xs = [2.0, 4.0, 8.0]
    assert exponent(xs, [3 * x**power for x in xs]) == pytest.approx(power)


def test_the_first_point_does_not_count_towards_the_exponent():
    points = [Point(1, 100.0, 1.0), Point(2, 2.0, 1.0), Point(4, 4.0, 1.0)]
    assert "| exponent | 1 | 0 |" in describe("batch", points, "1", "0")


def test_what_was_not_measured_is_left_blank():
    points = [Point(n, mebibytes=8 / n) for n in (1, 2, 4)]
    text = describe("devices", points, "", "-1")
    assert "| exponent |  | -1 |" in text
    assert "nan" not in text
    assert math.isnan(exponent([1.0], [math.nan]))
