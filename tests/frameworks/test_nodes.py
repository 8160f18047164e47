"""A run that Ray's and Dask's workers on another machine log to.

Machines are namespaces of this one: see tests/helpers/machines.py.
"""

import collections
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import use_nodes
from conftest import ROOT
from limits import HANG_SECONDS, WAIT_SECONDS
from machines import ADDRESSES, machines  # noqa: F401

from wandb_ddp_patch import runfile

SCRIPT = use_nodes.__file__
BIN = Path(sys.executable).parent
PATH = os.pathsep.join(map(str, (Path(SCRIPT).parent, ROOT / "tests" / "no_startup", ROOT)))


@contextlib.contextmanager
def ray_nodes(machines):  # noqa: F811
    # A short name: Ray has sockets there.
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")
    common = ["--block", "--disable-usage-stats", "--object-store-memory=80000000"]
    head = ["--head", "--port=6379", f"--temp-dir={folder}", "--num-cpus=1"]
    other = [f"--address={ADDRESSES[0]}:6379", "--num-cpus=1", '--resources={"other": 4}']
    try:
        for n, options in enumerate(([*head, "--include-dashboard=false"], other)):
            where = f"--node-ip-address={ADDRESSES[n]}"
            started = [BIN / "ray", "start", where, *options, *common]
            machines.start(n, *started, PYTHONPATH=PATH, RAY_AUTH_MODE="disabled")
            await_port(machines, 6379)
        yield f"{ADDRESSES[0]}:6379"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def dask_nodes(machines):  # noqa: F811
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", ADDRESSES[0]]
    machines.start(0, *dask, "--port", "8786", "--no-dashboard", PYTHONPATH=PATH)
    await_port(machines, 8786)
    address = f"tcp://{ADDRESSES[0]}:8786"
    for n in range(2):
        dask = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--host"]
        options = ["--nthreads", "1", "--no-dashboard", "--name", f"worker {n}"]
        machines.start(1, *dask, ADDRESSES[1], *options, PYTHONPATH=PATH)
    yield address


def await_port(machines, port):  # noqa: F811
    ask = f"import socket; socket.create_connection(('{ADDRESSES[0]}', {port})).close()"
    deadline = time.monotonic() + WAIT_SECONDS
    while machines.start(0, sys.executable, "-c", ask).wait(HANG_SECONDS):
        assert time.monotonic() < deadline, f"nobody listens at port {port}"
        time.sleep(0.2)


@pytest.mark.parametrize("nodes", [ray_nodes, dask_nodes], ids=["ray", "dask"])
def test_workers_on_another_machine_log_to_the_run(machines, tmp_path, nodes):  # noqa: F811
    name = nodes.__name__.split("_")[0]
    with nodes(machines) as address, open(tmp_path / "log", "w") as log:
        env = {"PYTHONPATH": PATH, "WANDB_DDP_PATCH": os.environ.get("WANDB_DDP_PATCH", "1")}
        driver = machines.start(0, sys.executable, SCRIPT, name, address, output=log, **env)
        with contextlib.suppress(subprocess.TimeoutExpired):
            driver.wait(HANG_SECONDS)
    assert driver.returncode == 0, (tmp_path / "log").read_text()
    (file,) = runfile.find(str(tmp_path))
    found = collections.defaultdict(list)
    for row in runfile.history(file):
        for key, value in row.items():
            found[key].append(value)
    workers = [f"worker {n}" for n in range(use_nodes.WORKERS)]
    workers += ["worker of an actor"] if name == "ray" else []
    for worker in workers:
        assert [int(value) for value in found[worker]] == list(range(use_nodes.ROWS)), worker
    assert len(found["owner"]) == 1
