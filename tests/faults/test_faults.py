"""A short version of the fault matrix; `make faults` runs all of it."""

import pytest
from faults import damage, kills
from faults.matrix import Row, attempt
from faults.runs import Laboratory, Outcome


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Laboratory(tmp_path_factory.mktemp("faults"))


def test_a_run_that_is_killed_at_a_save_ends_bit_for_bit_as_it_would_have(lab):
    outcome = kills.kill_at_random_times(lab, "autoencoder", 1, num_kills=1)
    assert outcome.passed == outcome.trials == 1


@pytest.mark.parametrize("spoil", [damage.flip_a_bit, damage.truncate, damage.remove])
def test_damaged_checkpoints_are_named_and_passed_over(lab, spoil):
    outcome = damage.spoil_files(lab, "autoencoder", spoil, 3)
    assert outcome.passed == outcome.trials == 3


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start(lab):
    assert damage.damage_all(lab, "autoencoder").passed == 1


def test_a_trial_that_fails_counts_as_one_that_did_not_pass(lab):
    def failing(lab):
        raise AssertionError("it broke")

    assert attempt(Row("a fault", failing), lab) == Outcome(1, 0, "it broke")


def test_no_trial_gets_the_folder_of_an_earlier_one(tmp_path):
    first = Laboratory(tmp_path).new_workdir()
    first.mkdir()
    assert Laboratory(tmp_path).new_workdir() != first
