"""The examples run, and what they log arrives. The reported case and spawn(): test_demo.py."""

import pytest
from conftest import ROOT
from rows import read_runs, read_values

TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node=2"]
EXAMPLES = {
    "dataloader.py": ([], {"broken": 30, "loss": 5}),
    "sweep_ddp.py": ([], {"loss": 60}),
    "torchrun_ddp.py": (
        [*TORCHRUN, "--master_port=0", "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"],
        {"loss of rank 0": 20, "loss of rank 1": 20},
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_runs_and_its_rows_arrive(run_script, tmp_path, name):
    options, expected = EXAMPLES[name]
    script = [*options, ROOT / "examples" / name]
    run_script(*script, env={"OMP_NUM_THREADS": "1"})
    values = read_values(tmp_path, convert=str)
    assert len(read_runs(tmp_path)) == (3 if name == "sweep_ddp.py" else 1)
    assert {key: len(values[key]) for key in expected} == expected
