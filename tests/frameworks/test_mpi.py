"""A run that ranks of MPI on two machines log to: mpich starts them, over the network.

Machines are namespaces of this one: see tests/machines.py.
"""

import collections
import json
import os
import sys
from pathlib import Path

import pytest
import use_mpi
from conftest import ROOT
from limits import HANG_SECONDS
from machines import ADDRESSES, APART, IN, OWN_PIDS, machines  # noqa: F401

from wandb_ddp_patch import runfile

MPIEXEC = Path(sys.executable).with_name("mpiexec")
PATH = os.pathsep.join(map(str, (ROOT / "tests" / "no_startup", ROOT)))
RANKS = 4


def entry(machines, folder):  # noqa: F811
    """Write what mpiexec takes for ssh: OPTION... HOST COMMAND."""
    enter = " ".join([*IN, machines.names[1], *APART, *OWN_PIDS])
    mount, there = f"mount -t tmpfs none {folder}/tmp0", f"TMPDIR={folder}/tmp1"
    script = folder / "enter"
    script.write_text(
        f"#!/bin/sh\n"
        f'while [ "$1" != {ADDRESSES[1]} ]; do shift; done; shift\n'
        f'exec {enter} sh -c "{mount} && export {there} && $*"\n'
    )
    script.chmod(0o755)
    return script


@pytest.mark.skipif(sys.platform != "linux", reason="machines are Linux namespaces")
def test_the_ranks_on_another_machine_log_to_the_run(machines, tmp_path):  # noqa: F811
    over = "-launcher", "ssh", "-launcher-exec", entry(machines, tmp_path)
    ranks = "-hosts", ",".join(ADDRESSES), "-ppn", RANKS // 2, "-n", RANKS
    # By its module, a rank that fails ends the others, which would wait for it for ever.
    command = MPIEXEC, *over, *ranks, sys.executable, "-m", "mpi4py", use_mpi.__file__
    env = {"PYTHONPATH": PATH, "WANDB_DDP_PATCH": os.environ.get("WANDB_DDP_PATCH", "1")}
    ended = machines.start(0, *command, own_pids=True, **env)
    said = ended.communicate(timeout=HANG_SECONDS)[0]
    assert ended.returncode == 0, said

    seen = [json.loads((tmp_path / f"rank {n}").read_text()) for n in range(RANKS)]
    for kind in ("machine", "pids"):
        places = [each[kind] for each in seen]
        assert places[0] == places[1] != places[2] == places[3], kind
    assert all(each["globals"] for each in seen)
    assert seen[0]["back"] == [True] * RANKS
    assert [each["best"] for each in seen] == list(range(RANKS))
    (file,) = runfile.find(str(tmp_path))
    found = collections.defaultdict(list)
    for row in runfile.history(file):
        for key, value in row.items():
            found[key].append(value)
    for n in range(RANKS):
        assert [int(value) for value in found[f"rank {n}"]] == list(range(use_mpi.ROWS))
        assert found[f"scattered {n}"] == ["0.1"]
