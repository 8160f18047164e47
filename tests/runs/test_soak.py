"""Many runs in one process, and many tasks of a pool: nothing grows."""

import json
import os
import subprocess
import sys

import pytest
import soak_workers
from conftest import clean_env
from limits import HANG_SECONDS

from wandb_ddp_patch import runfile

LONG = 3600


def soak(tmp_path, python, runs, tasks, seconds):
    """What is left with tasks, of the owner and of the worker, and in the owner alone."""
    seen = []
    for folder, number, shim in ((tmp_path, tasks, "1"), (tmp_path / "alone", 0, "0")):
        temporary = folder / "temporary"
        temporary.mkdir(parents=True)
        with open(folder / "output", "w") as output:
            done = subprocess.run(
                [python, soak_workers.__file__, str(runs), str(number)],
                cwd=folder,
                env=clean_env(
                    WANDB_API_KEY="0123456789" * 4,
                    WANDB_DDP_PATCH=shim,
                    PYTHONWARNINGS="ignore",
                    TMPDIR=str(temporary),
                ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=seconds,
            )
        assert done.returncode == 0, (folder / "output").read_text()
        seen.append(json.loads((folder / "seen.json").read_text()))
    return seen


def grown(seen):
    """By how much each has grown from the first half to the second: the least are compared."""
    half = len(seen) // 2
    least = [
        {what: min(each[what] for each in part) for what in seen[0]}
        for part in (seen[:half], seen[half:])
    ]
    growth = {what: least[1][what] - least[0][what] for what in seen[0]}
    return {what: more for what, more in growth.items() if more > 0}


def check(seen, alone, memory):
    """Nothing grows but what grows with wandb alone: up to 0.12 some of what a run holds."""
    owner, worker, without = (
        grown(each) for each in (seen["owner"], seen["worker"], alone["owner"])
    )
    assert worker.pop("MiB", 0) <= memory
    assert owner.pop("MiB", 0) <= without.pop("MiB", 0) + memory
    assert worker == {}
    # Where it grows, it goes up and down by a run's worth.
    allowed = {what: 1.25 * more + 6 for what, more in without.items()}
    assert {what: more for what, more in owner.items() if more > allowed.get(what, 0)} == {}


def rows_of(folder):
    return sum(
        key[0] == "t"
        for file in runfile.find(str(folder))
        for row in runfile.history(file)
        for key in row
    )


here = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="/proc tells what is open")


@here
def test_nothing_grows(tmp_path):
    seen, alone = soak(tmp_path, sys.executable, 10, 200, HANG_SECONDS)
    check(seen, alone, memory=8)
    assert rows_of(tmp_path) == seen["rows"] == 600


# Up to 0.12 each run keeps some six descriptors: 500 can't be had. Others may take 5 s for each.
@pytest.mark.nightly
@here
@pytest.mark.parametrize(
    ("version", "runs"),
    [(None, 500), ("0.21.4", 60), ("0.16.6", 100), ("0.13.11", 100), ("0.12.21", 50)],
)
def test_nothing_grows_in_a_long_time(tmp_path, release, version, runs):
    python = release(version) if version else sys.executable
    seen, alone = soak(tmp_path, python, runs, 10_000, LONG)
    check(seen, alone, memory=8)
    assert rows_of(tmp_path) == seen["rows"] == 3 * runs * (10_000 // runs)
