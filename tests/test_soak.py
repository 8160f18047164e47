"""Many runs in one process, and many tasks of a pool: nothing grows."""

import collections
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
    folder = tmp_path / "temporary"
    folder.mkdir()
    with open(tmp_path / "output", "w") as output:
        done = subprocess.run(
            [python, soak_workers.__file__, str(runs), str(tasks)],
            cwd=tmp_path,
            env=clean_env(
                WANDB_API_KEY="0123456789" * 4, PYTHONWARNINGS="ignore", TMPDIR=str(folder)
            ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=seconds,
        )
    assert done.returncode == 0, (tmp_path / "output").read_text()
    return json.loads((tmp_path / "seen.json").read_text())


def grown(seen):
    """What has grown from the first half to the second: the least of each is compared."""
    half = len(seen) // 2
    first, second = seen[:half], seen[half:]
    return {
        what: (min(each[what] for each in first), min(each[what] for each in second))
        for what in seen[0]
        if what != "MiB" and min(e[what] for e in second) > min(e[what] for e in first)
    }


def rows_of(folder):
    return sum(
        collections.Counter(key[0] == "t" for key in row)[True]
        for file in runfile.find(str(folder))
        for row in runfile.history(file)
    )


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="/proc tells what is open")
@pytest.mark.parametrize("version", [None, "0.12.21"])
def test_nothing_grows(tmp_path, release, version):
    python = release(version) if version else sys.executable
    seen = soak(tmp_path, python, 10, 200, HANG_SECONDS)
    assert grown(seen["owner"]) == grown(seen["worker"]) == {}
    assert rows_of(tmp_path) == seen["rows"] == 600


@pytest.mark.nightly
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="/proc tells what is open")
@pytest.mark.parametrize("version", [None, "0.21.4", "0.16.6", "0.12.21"])
def test_nothing_grows_in_a_long_time(tmp_path, release, version):
    python = release(version) if version else sys.executable
    seen = soak(tmp_path, python, 500, 10_000, LONG)
    assert grown(seen["owner"]) == grown(seen["worker"]) == {}
    for who in ("owner", "worker"):
        memory = [each["MiB"] for each in seen[who]]
        half = len(memory) // 2
        # wandb itself keeps some 20 KiB for each run.
        assert max(memory[half:]) <= 1.15 * max(memory[:half]) + 8, memory
    assert rows_of(tmp_path) == seen["rows"] == 30_000
