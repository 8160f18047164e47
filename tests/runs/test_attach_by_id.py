"""A worker that was passed nothing attaches by the run's id, as Lightning's logger does."""

import pytest
from rows import read_rows
from scripts import API_KEY

CODE = """
import multiprocessing, sys
import wandb, wandb_ddp_patch

def work(id, ending, back):
    run = wandb._attach(id)
    back.put(run)
    for i in range(50):
        run.log({ending: i})
    if ending == "finish":
        run.finish()

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    run = wandb.init(mode="offline", project="p")
    back = context.Queue()
    for ending in ("return", "finish", "return"):  # one's end is not the run's
        worker = context.Process(target=work, args=(run.id, ending, back))
        worker.start()
        assert back.get() is run
        worker.join()
        assert worker.exitcode == 0
        run.log({f"owner after {ending}": 1})
    run.finish()
"""


@pytest.mark.parametrize("version", [None, "0.13.11", "0.16.6", "0.21.4"])
def test_the_run_goes_on_for_its_owner(forked, release, tmp_path, version):
    forked(CODE, python=release(version), quiet=False, WANDB_API_KEY=API_KEY)
    rows = read_rows(tmp_path)
    for ending, workers in (("return", 2), ("finish", 1)):
        assert sum(ending in row for row in rows) == 50 * workers
        assert sum(f"owner after {ending}" in row for row in rows) == workers
