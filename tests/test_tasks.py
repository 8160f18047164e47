"""The row of each task whose result was returned is in the run, however workers are ended."""

import json
import subprocess
import sys

import pytest
import task_workers
from conftest import clean_env

from wandb_ddp_patch import runfile

WHERE = [
    ("0.21.4", "fork", "with"),
    ("0.21.4", "fork", "terminate"),
    ("0.21.4", "spawn", "executor"),
    (None, "fork", "terminate"),
    (None, "spawn", "with"),
    (None, "fork", "pipe"),
    (None, "fork", "interrupt"),
    ("0.16.6", "fork", "with"),
]


def run(tmp_path, python, method, case):
    with open(tmp_path / "output", "w") as output:
        subprocess.run(
            [python, task_workers.__file__, method, case],
            cwd=tmp_path,
            env=clean_env(WANDB_API_KEY="0123456789" * 4, PYTHONWARNINGS="ignore"),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=True,
            timeout=600,
        )
    returned = json.loads((tmp_path / "returned.json").read_text())
    (file,) = runfile.find(str(tmp_path))
    return returned, [int(row["task"]) for row in runfile.history(file) if "task" in row]


@pytest.mark.parametrize(("version", "method", "case"), WHERE)
def test_no_row_of_a_task_that_has_returned_is_lost(tmp_path, release, version, method, case):
    python = release(version) if version else sys.executable
    returned, rows = run(tmp_path, python, method, case)
    assert returned
    assert set(returned) <= set(rows)
    assert len(rows) == len(set(rows))


def test_nor_in_loky(tmp_path):
    returned, rows = run(tmp_path, sys.executable, "spawn", "loky")
    assert set(returned) <= set(rows)
