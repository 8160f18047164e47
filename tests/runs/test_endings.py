"""Each row of a worker is in the run, whoever has started the worker, and however it ends."""

import collections
import subprocess
import sys

import ending_workers
import pytest
from conftest import clean_env
from limits import HANG_SECONDS

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


def run(tmp_path, python, *args, **env):
    with open(tmp_path / "output", "w") as output:
        subprocess.run(
            [python, ending_workers.__file__, *args],
            cwd=tmp_path,
            env=clean_env(PYTHONWARNINGS="ignore", WANDB_SILENT="false", **env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=HANG_SECONDS,
            check=True,
        )
    return runfile.find(str(tmp_path)), (tmp_path / "output").read_text()


@pytest.mark.parametrize(("version", "case", "method"), CASES)
def test_no_row_is_lost_and_nobody_is_alarmed(tmp_path, release, version, case, method):
    python = release(version) if version else sys.executable
    (file,), output = run(tmp_path, python, case, method)
    rows = runfile.history(file)
    counts = collections.Counter(row["worker"] for row in rows if "worker" in row)
    assert counts == {str(n): ending_workers.ROWS for n in range(ending_workers.WORKERS)}
    assert sum("owner" in row for row in rows) == (case in ("teardown", "os._exit"))
    assert "may be" not in output


@pytest.mark.parametrize("library", ["multiprocess", "billiard"])
def test_a_workers_own_run_is_finished_by_whatever_library_it_ends(tmp_path, library):
    files, _ = run(tmp_path, sys.executable, "own", library)
    assert len(files) == ending_workers.WORKERS
    for file in files:
        assert len(runfile.history(file)) == ending_workers.OWN_ROWS
        assert runfile.exit_code(file) == 0
