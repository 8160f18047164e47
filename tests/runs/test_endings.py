"""Each row of a worker is in the run, whoever has started the worker, and however it ends."""

import collections
import subprocess
import sys

import ending_workers
import pytest
from rows import read_rows

from wandb_ddp_patch import runfile

CASES = [
    (None, "multiprocess-pool", "fork"),
    (None, "billiard-one-task", "fork"),
    (None, "teardown", "fork"),
    (None, "fork", "fork"),
    (None, "barrier", "fork"),
    (None, "outlives", "fork"),
    ("0.21.4", "fork", "fork"),
    ("0.18.7", "barrier", "fork"),
    ("0.16.6", "teardown", "fork"),
]
NIGHTLY = [
    (None, "multiprocess", "fork"),
    (None, "multiprocess", "spawn"),
    (None, "billiard-pool", "fork"),
    (None, "teardown", "spawn"),
    (None, "os._exit", "spawn"),
    (None, "killed", "fork"),
    (None, "outlives", "spawn"),
    ("0.21.4", "teardown", "fork"),
    ("0.18.7", "teardown", "fork"),
    ("0.16.6", "barrier", "fork"),
    ("0.22.3", "barrier", "fork"),
]
CASES += [pytest.param(*case, marks=pytest.mark.nightly) for case in NIGHTLY]


@pytest.fixture
def run(run_prepared):
    """Run the workers; return all that they and their owner have written."""

    def run(*args, python=sys.executable):
        env = {"PYTHONWARNINGS": "ignore", "WANDB_SILENT": "false"}
        script = ending_workers.__file__
        return run_prepared(script, *args, python=python, env=env, stderr=subprocess.STDOUT).stdout

    return run


@pytest.mark.parametrize(("version", "case", "method"), CASES)
def test_no_row_is_lost_and_nobody_is_alarmed(run, release, tmp_path, version, case, method):
    output = run(case, method, python=release(version))
    rows = read_rows(tmp_path)
    counts = collections.Counter(row["worker"] for row in rows if "worker" in row)
    assert counts == {str(n): ending_workers.ROWS for n in range(ending_workers.WORKERS)}
    assert sum("owner" in row for row in rows) == (case in ("teardown", "os._exit"))
    assert "may be" not in output


@pytest.mark.parametrize("library", ["multiprocess", "billiard"])
def test_a_workers_own_run_is_finished_by_whatever_library_it_ends(run, tmp_path, library):
    run("own", library)
    files = runfile.find(str(tmp_path))
    assert len(files) == ending_workers.WORKERS
    for file in files:
        assert len(runfile.history(file)) == ending_workers.OWN_ROWS
        assert runfile.exit_code(file) == 0
