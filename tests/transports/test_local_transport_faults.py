"""What goes wrong at an owner that makes its workers' calls (wandb up to 0.12): no row is lost."""

import functools
import os
import sys

import local_transport_faults
import pytest
from faulty_workers import ROWS
from rows import read_values

ALL = list(range(ROWS))

# A release whose runs put rows together, and one whose service does.
WHERE = [("0.10.33", "spawn"), ("0.12.21", "fork")]
where = pytest.mark.parametrize(("version", "method"), WHERE)


@pytest.fixture
def case(run_case):
    return functools.partial(run_case, local_transport_faults.__file__)


@where
def test_a_row_that_waits_for_the_network_holds_up_no_other(case, tmp_path, version, method):
    said = case(version, method, "network")
    assert said == ["other 0", "asked True", "slow 0"]
    rows = read_values(tmp_path, int_or_text)
    assert rows["other"] == ALL
    assert rows["after"] == rows["owner"] == [1]
    assert len(rows["slow"]) == 1


def int_or_text(value):
    return int(value) if value.isdigit() else value


@where
def test_threads_that_cannot_be_started(case, tmp_path, version, method):
    assert case(version, method, "no_thread") == ["[0, 0, 0, 0]", "True"]
    rows = read_values(tmp_path, lambda value: int(value.strip("[]")))
    assert [rows[f"worker {n}"] for n in range(4)] == [ALL] * 4


def test_silent_strangers(case, tmp_path):
    said = case("0.12.21", "fork", "strangers")
    assert said == ["[0]", "in time True", "descriptors True", "threads True"]
    assert read_values(tmp_path)["worker"] == ALL


@pytest.mark.skipif(
    sys.platform != "linux" or os.getuid(), reason="needs Linux and root, who can be others"
)
@pytest.mark.parametrize("name", ["another_user", "another_user_of_windows"])
def test_another_user_is_not_heard(case, name):
    assert case("0.12.21", "fork", name) == ["[3]"]


def test_who_does_not_hold_the_key_of_the_tree_is_told(case):
    why = "this process was not started with multiprocessing by the one that called wandb.init()"
    assert case("0.12.21", "fork", "no_key") == [why, "[0]"]


@where
def test_a_worker_is_killed_when_it_has_logged(case, tmp_path, version, method):
    assert case(version, method, "die") == ["[-9, -9]", "at once True"]
    rows = read_values(tmp_path)
    assert rows["worker 0"] == rows["worker 1"] == ALL


def test_a_worker_is_killed_before_its_row_is_made(case, tmp_path):
    assert case("0.12.21", "fork", "die_before_it_is_made") == ["asked True"]
    assert len(read_values(tmp_path, int_or_text)["slow"]) == 1


def test_a_worker_that_is_stopped_does_not_hold_up_the_end_for_long(case, tmp_path):
    assert case("0.12.21", "fork", "stopped_worker") == ["soon True"]
    assert read_values(tmp_path)["worker"] == ALL


def test_an_owner_that_was_stopped_for_long(case, tmp_path):
    assert case("0.12.21", "fork", "stopped") == ["[0]"]
    assert read_values(tmp_path)["worker"] == ALL
