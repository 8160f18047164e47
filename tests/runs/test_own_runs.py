"""Workers with runs of their own beside the one that they were passed: each row in its run."""

import collections
import os
import re
import subprocess
import sys

import own_run_workers
import pytest
from conftest import clean_env
from limits import HANG_SECONDS

from wandb_ddp_patch import runfile

PASSED = {"own_first": 4, "passed_first": 8, "interleaved": 12, "two_passed": 8}


def rows(folder):
    found = {}
    for file in runfile.find(str(folder)):
        name = re.search(r"run-(\w+)\.wandb", os.path.basename(file)).group(1)
        keys = (key for row in runfile.history(file) for key in row if key[0] != "_")
        found[name] = dict(collections.Counter(keys))
    return found


def run(tmp_path, python, method, order):
    with open(tmp_path / "output", "w") as output:
        subprocess.run(
            [python, own_run_workers.__file__, method, order],
            cwd=tmp_path,
            env=clean_env(WANDB_API_KEY="0123456789" * 4, PYTHONWARNINGS="ignore"),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=HANG_SECONDS,
            check=True,
        )
    return rows(tmp_path)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("order", PASSED)
def test_each_row_is_in_the_run_that_it_was_logged_to(tmp_path, order, method):
    found = run(tmp_path, sys.executable, method, order)
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
def test_a_workers_own_run_is_finished_when_it_ends(tmp_path, release, version):
    python = release(version) if version else sys.executable
    found = run(tmp_path, python, "fork", "unfinished")
    assert found == {"ownearly0": {"own": 1}, "ownearly1": {"own": 1}}
