"""What is in the file of a finished run: each example ends by printing it."""

import collections
import glob
import os
import time

from wandb_ddp_patch import runfile


def show_rows(run, by=None):
    """Print how many rows are in a finished run's file, by their keys.

    Args:
        run: The run, in the process that has finished it.
        by: A key. The rows with each of its values are counted as well.
    """
    for file in glob.glob(os.path.join(os.path.dirname(run.dir), "*.wandb")):
        wait_until_written(file)
        rows = runfile.history(file)
        counts = collections.Counter(key for row in rows for key in row if key[0] != "_")
        listed = ", ".join(f"{counts[key]} with {key}" for key in sorted(counts))
        print(f"Rows in the run's file: {len(rows)} ({listed})")
        values = collections.Counter(row[by] for row in rows if by in row)
        for value in sorted(values):
            print(f"{by} {value}: {values[value]} rows")


def wait_until_written(file, seconds=10.0):
    """Wait for the end of a file: finish() returns a moment before W&B's service writes it."""
    deadline = time.monotonic() + seconds
    while os.path.getsize(file) == 0 or runfile.exit_code(file) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{file} has no end")
        time.sleep(0.01)
