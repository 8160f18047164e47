"""The examples run, and what they log arrives. The reported case and spawn(): test_demo.py.

Those that need a framework: tests/frameworks/test_framework_examples.py.
"""

import ast
import json
import re

import pytest
from conftest import ROOT
from rows import read_runs, read_values

TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node=2"]
FOLDER = ROOT / "examples"
FILES = sorted({*FOLDER.glob("*.py"), *FOLDER.glob("*.ipynb")} - {FOLDER / "show_rows.py"})
EXAMPLES = {
    "dataloader.py": ([], {"broken": 30, "loss": 5}),
    "pool.py": ([], {"pi": 12}),
    "sweep_ddp.py": ([], {"loss": 60}),
    "torchrun_ddp.py": (
        [*TORCHRUN, "--master_port=0", "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"],
        {"loss of rank 0": 20, "loss of rank 1": 20},
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_runs_and_its_rows_arrive(run_script, tmp_path, name):
    options, expected = EXAMPLES[name]
    done = run_script(*options, FOLDER / name, env={"OMP_NUM_THREADS": "1"})
    values = read_values(tmp_path, convert=str)
    assert len(read_runs(tmp_path)) == done.stdout.count("Rows in the run's file: ")
    assert len(read_runs(tmp_path)) == (3 if name == "sweep_ddp.py" else 1)
    assert {key: len(values[key]) for key in expected} == expected


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_it_names_the_command_that_runs_it(file):
    text = file.read_text("utf-8")
    if file.suffix == ".ipynb":
        first = "".join(json.loads(text)["cells"][0]["source"])
    else:
        first = ast.get_docstring(ast.parse(text))
    command = re.search(r"^    pip install (.+) && ((?:.+\\\n)?.+)$", first, re.M)
    assert command, first
    assert command[1].startswith((". ", '".[demo]"')) or command[1] == "."
    assert f"examples/{file.name}" in command[2]


def test_the_page_lists_every_example():
    page = (FOLDER / "README.md").read_text("utf-8")
    assert {"show_rows.py", *(file.name for file in FILES)} == set(
        re.findall(r"\]\((\w+\.\w+)\)", page)
    )
