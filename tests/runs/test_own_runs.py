"""Workers with runs of their own beside the one that they were passed: each row in its run."""

import collections
import sys

import own_run_workers
import pytest
from rows import read_runs
from scripts import WORKER_ENV

PASSED = {"own_first": 4, "passed_first": 8, "interleaved": 12, "two_passed": 8}


@pytest.fixture
def run(run_prepared, tmp_path):
    """Run the workers; return how often each key is in the rows of each run."""

    def run(python, method, order):
        script = own_run_workers.__file__
        run_prepared(script, method, order, python=python, env=WORKER_ENV)
        return {
            name: dict(collections.Counter(key for row in rows for key in row if key[0] != "_"))
            for name, rows in read_runs(tmp_path).items()
        }

    return run


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("order", PASSED)
def test_each_row_is_in_the_run_that_it_was_logged_to(run, tmp_path, order, method):
    found = run(sys.executable, method, order)
    assert (tmp_path / "codes").read_text() == "[0, 0]"
    assert found.pop("passed") == {"passed": PASSED[order]}
    if order == "two_passed":
        assert found.pop("second") == {"second": 4}
    assert {key for counts in found.values() for key in counts} == {"own"}
    # The pool's workers have one already, which wandb.init() returns.
    own = {"own_first": 1, "passed_first": 2, "interleaved": 2}.get(order)
    if own:
        assert found["own0"] == found["own1"] == {"own": own}


@pytest.mark.parametrize("version", [None, "0.16.6"])
def test_a_workers_own_run_is_finished_when_it_ends(run, release, version):
    found = run(release(version), "fork", "unfinished")
    assert found == {"ownearly0": {"own": 1}, "ownearly1": {"own": 1}}
