"""What carries things carries them to a worker on another machine, and on to that one's workers.

Machines are namespaces of this one: see tests/machines.py.
"""

import json
import os
import sys
from pathlib import Path

import carriers_elsewhere
import elsewhere_jobs
import pytest
from conftest import ROOT
from limits import HANG_SECONDS
from machines import ADDRESSES, short_machines  # noqa: F401

SCRIPT = carriers_elsewhere.__file__
TESTS = ROOT / "tests"
FOLDERS = [
    Path(SCRIPT).parent,
    *(TESTS / name for name in ("helpers", "workers", "no_startup")),
    ROOT,
]
PATH = os.pathsep.join(
    map(
        str,
        (
            Path(SCRIPT).parent,
            TESTS,
            TESTS / "helpers",
            TESTS / "workers",
            TESTS / "no_startup",
            ROOT,
        ),
    )
)
NAMES = list(carriers_elsewhere.CARRIERS)
GROUPS = [NAMES[n : n + 3] for n in range(0, len(NAMES), 3)]  # a run for each


@pytest.mark.parametrize("carriers", GROUPS, ids="; ".join)
def test_it_carries_everything_to_another_machine(short_machines, carriers):  # noqa: F811
    machines = short_machines
    env = {"PYTHONPATH": PATH, "WANDB_DDP_PATCH": os.environ.get("WANDB_DDP_PATCH", "1")}
    env = {**env, "own_pids": True, "PYTHONWARNINGS": "ignore"}
    with open(machines.folder / "machine", "w") as output:
        jobs = elsewhere_jobs.__file__, "machine"
        machines.start(1, sys.executable, *jobs, output=output, **env)
        env["WANDB_DDP_PATCH_SHARE"] = ADDRESSES[0]
        owner = machines.start(0, sys.executable, SCRIPT, *carriers, **env)
        said = owner.communicate(timeout=HANG_SECONDS)[0]
    assert owner.returncode == 0, said
    found = json.loads(said.splitlines()[-1])
    assert found == dict.fromkeys(carriers), said + (machines.folder / "machine").read_text()
