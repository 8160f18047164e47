"""Reads the rows that runs have left in their .wandb files."""

import collections
import re
import time
from pathlib import Path

from limits import WAIT_SECONDS

from wandb_ddp_patch import runfile


def read_runs(folder):
    """Return the rows of each run in a folder, by the run's id."""
    return {
        re.search(r"run-(\w+)\.wandb", Path(file).name).group(1): runfile.history(file)
        for file in runfile.find(str(folder))
    }


def read_rows(folder):
    """Return the rows of the run in a folder, of which there must be one."""
    runs = read_runs(folder)
    assert len(runs) == 1, f"the runs in {folder}: {list(runs)}"
    return next(iter(runs.values()))


def read_values(folder, convert=int):
    """Return what the runs in a folder have logged by each key, in its order."""
    values = collections.defaultdict(list)
    for rows in read_runs(folder).values():
        for row in rows:
            for key in row:
                if key[0] != "_":
                    values[key].append(convert(row[key]))
    return values


def finished_run(folder):
    """Return the file of the run in a folder, of which there must be one, once it is whole.

    W&B's service of newer releases may write its end after finish() has returned. It has ended
    by the time that a script's interpreter has, but not where that goes on.
    """
    (file,) = runfile.find(str(folder))
    deadline = time.monotonic() + WAIT_SECONDS
    while runfile.exit_code(file) is None and time.monotonic() < deadline:
        time.sleep(0.1)
    return file


def column(rows, key):
    """Return the numbers that rows have by a key, of those that have it."""
    return [int(row[key]) for row in rows if key in row]
