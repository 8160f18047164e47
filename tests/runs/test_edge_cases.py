"""Workers that have several owners, fork, are interrupted, or send what can't be loaded."""

import functools

import edge_case_workers
import pytest
from faulty_workers import ROWS
from rows import read_values

ALL = list(range(ROWS))


@pytest.fixture
def case(run_case):
    return functools.partial(run_case, edge_case_workers.__file__)


def test_a_worker_on_another_machine_forks(case, tmp_path):
    assert case(None, "spawn", "fork_elsewhere") == ["[0]", "[0]"]
    assert read_values(tmp_path) == {"worker 0": [0], "fork": ALL}


def test_a_fork_does_not_wait_for_an_owner_that_is_silent(case):
    assert case(None, "spawn", "fork_while_connecting") == ["True", "[0]"]


@pytest.mark.parametrize("version", [None, "0.16.6"])
def test_runs_of_another_machine_and_of_this_one(case, tmp_path, version):
    assert case(version, "spawn", "two_owners") == ["[0]", "[0]"]
    assert read_values(tmp_path) == {"far": ALL, "near": ALL, "far, again": ALL}


def test_a_worker_elsewhere_keeps_no_run_that_is_over(case, tmp_path):
    assert case(None, "spawn", "run_after_run") == ["1 1"]
    assert read_values(tmp_path)["worker 0"] == ALL * 4


def test_a_worker_keeps_no_connection_to_a_run_that_is_over(case, tmp_path):
    assert case("0.12.21", "spawn", "near_run_after_run") == ["0 1"]
    assert read_values(tmp_path)["worker 0"] == ALL * 4


# From 0.13 on, wandb itself may wait for ever then.
def test_a_signals_handler_logs_in_the_middle_of_a_row(case, tmp_path):
    said, ended = case("0.12.21", "spawn", "log_in_a_handler")
    assert ended == "[0]"
    rows, signals = map(int, said.split())
    found = read_values(tmp_path)
    assert sorted(found["worker 0"]) == list(range(rows))
    assert sorted(found["signal"]) == list(range(signals))


def test_a_signals_handler_logs_while_its_run_connects(case, tmp_path):
    assert case("0.12.21", "spawn", "log_while_connecting") == ["[0]"]
    assert read_values(tmp_path) == {"worker 0": [0], "signal": [0]}


# From 0.13 on, a worker makes its rows itself.
def test_loading_a_row_ends_in_sys_exit_at_the_owner(case, tmp_path):
    assert case("0.12.21", "spawn", "send_what_exits") == ["True", "[0]"]
    assert read_values(tmp_path)["worker 0"] == ALL


@pytest.mark.parametrize("version", [None, "0.12.21"])
def test_an_import_of_wandbs_is_blocked(case, tmp_path, version):
    assert case(version, "fork", "blocked_modules") == ["[0]", "blocked", "[0]"]
