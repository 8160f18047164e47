"""The examples run, and what they log arrives. The reported case and spawn(): test_demo.py."""

import collections
import subprocess
import sys

import pytest
from conftest import ROOT, clean_env
from limits import HANG_SECONDS

from wandb_ddp_patch import runfile

TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node=2"]
EXAMPLES = {
    "dataloader.py": ([], {"broken": 30, "loss": 5}),
    "sweep_ddp.py": ([], {"loss": 60}),
    "torchrun_ddp.py": (
        [*TORCHRUN, "--master_port=0", "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"],
        {"loss of rank 0": 20, "loss of rank 1": 20},
    ),
}


def rows(folder):
    files = runfile.find(str(folder))
    counts = collections.Counter(
        key for file in files for row in runfile.history(file) for key in row
    )
    return len(files), counts


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_runs_and_its_rows_arrive(tmp_path, name):
    options, expected = EXAMPLES[name]
    done = subprocess.run(
        [sys.executable, *options, str(ROOT / "examples" / name)],
        cwd=tmp_path,
        env=clean_env(OMP_NUM_THREADS="1"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=HANG_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    runs, counts = rows(tmp_path)
    assert runs == (3 if name == "sweep_ddp.py" else 1)
    assert {key: counts[key] for key in expected} == expected
