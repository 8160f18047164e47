"""The row of each task whose result was returned is in the run, however workers are ended."""

import json
import sys

import pytest
import task_workers
from rows import column, read_rows
from scripts import API_KEY, WORKER_ENV

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


@pytest.fixture
def run(run_prepared, tmp_path):
    """Run the tasks; return which have returned, and which have a row."""

    def run(python, method, case):
        run_prepared(task_workers.__file__, method, case, python=python, env=WORKER_ENV)
        returned = json.loads((tmp_path / "returned.json").read_text())
        return returned, column(read_rows(tmp_path), "task")

    return run


@pytest.mark.parametrize(("version", "method", "case"), WHERE)
def test_no_row_of_a_task_that_has_returned_is_lost(run, release, version, method, case):
    returned, rows = run(release(version), method, case)
    assert returned
    assert set(returned) <= set(rows)
    assert len(rows) == len(set(rows))


def test_nor_in_loky(run):
    returned, rows = run(sys.executable, "spawn", "loky")
    assert set(returned) <= set(rows)


# Where a thread of wandb's looks every ten minutes, not every second, whether it is to end.
SLOW_ROUTERS = """
import multiprocessing
import wandb, wandb_ddp_patch
from wandb.sdk.interface.router_sock import MessageSockRouter

def read(self):
    answer = self._sock_client.read_server_response(timeout=600)
    return answer and answer.result_communicate

def task(arguments):
    run, n = arguments
    MessageSockRouter._read_message = read
    run.log({"task": n})
    run.finish()

if __name__ == "__main__":
    run = wandb.init(mode="offline", project="p")
    with multiprocessing.get_context("fork").Pool(1) as pool:
        pool.map(task, [(run, n) for n in range(20)], chunksize=1)
    run.finish()
"""


@pytest.mark.parametrize("version", ["0.13.11", "0.16.6", "0.17.9"])
def test_a_task_waits_for_no_thread_of_the_one_before(forked, release, tmp_path, version):
    forked(SLOW_ROUTERS, python=release(version), quiet=False, WANDB_API_KEY=API_KEY)
    assert sorted(column(read_rows(tmp_path), "task")) == list(range(20))
