"""A notebook, executed by a real kernel: workers of its cells log to its run."""

import collections

import arms
import nbclient
import nbformat
import pytest
from limits import HANG_SECONDS

from wandb_ddp_patch import runfile

START = """
import wandb, wandb_ddp_patch, notebook_workers
run = wandb.init(project="p", config={"lr": 0.1})
"""
FINISH = 'run.log({"owner": 1}); run.finish()'
CELL = """
def in_a_cell(rank):
    wandb.log({f"cell {rank}": wandb.config["lr"]})
"""


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Execute cells, and give what the last one shows, and how many rows there are of what."""

    def do(*cells):
        path = [arms.HERE, arms.ROOT / "tests" / "no_startup", arms.ROOT]
        monkeypatch.setenv("PYTHONPATH", ":".join(map(str, path)))
        monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        client = nbclient.NotebookClient(
            notebook, timeout=HANG_SECONDS, resources={"metadata": {"path": str(tmp_path)}}
        )
        client.execute()
        (file,) = runfile.find(str(tmp_path))
        rows = collections.Counter(key for row in runfile.history(file) for key in row)
        shown = "".join(output.get("text", "") for output in notebook.cells[-1].outputs)
        return shown, rows

    return do


def test_functions_of_a_module(execute):
    launch = """
    from accelerate import notebook_launcher
    from carriers_training import free_port
    arguments, port = (run.config, run), free_port()
    notebook_launcher(notebook_workers.launched, arguments, num_processes=2, use_port=port)
    """
    spawn = "wandb_ddp_patch.spawn(notebook_workers.spawned, nprocs=2)"
    _, rows = execute(START, spawn, launch.replace("\n    ", "\n"), spawn, FINISH)
    assert {key: rows[key] for key in rows if key[0] != "_"} == {
        "spawned 0": 2,
        "spawned 1": 2,
        "launched 0": 1,
        "launched 1": 1,
        "owner": 1,
    }


def test_a_function_of_a_cell_is_refused_at_once_with_what_to_do(execute):
    spawn = """
try:
    wandb_ddp_patch.spawn(in_a_cell, nprocs=2)
except ValueError as error:
    said = str(error)
"""
    shown, rows = execute(START, CELL, spawn, FINISH, "print(said)")
    assert "in_a_cell" in shown and 'start_method="fork"' in shown
    assert rows["owner"] == 1


def test_a_function_of_a_cell_is_forked_where_that_is_asked_for(execute):
    spawn = 'wandb_ddp_patch.spawn(in_a_cell, nprocs=2, start_method="fork")'
    _, rows = execute(START, CELL, spawn, FINISH)
    assert rows["cell 0"] == rows["cell 1"] == rows["owner"] == 1
