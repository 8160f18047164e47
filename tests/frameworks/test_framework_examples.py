"""The examples that need a framework run, and what they log arrives."""

import copy
import os
import sys
from pathlib import Path

import arms
import pytest
from conftest import ROOT
from limits import HANG_SECONDS
from scripts import run_script

EXAMPLES = ROOT / "examples"


def test_lightning(tmp_path):
    pytest.importorskip("lightning")
    ended = arms.run(tmp_path / "run", arms.WITH, EXAMPLES / "lightning_ddp.py")
    assert ended.code == 0, ended.output
    rows = arms.rows(tmp_path / "run")
    # 512 points in batches of 32, in two ranks, three epochs; every fourth step is logged.
    assert rows["loss"] == 6
    assert rows["norm in rank 0"] == rows["norm in rank 1"] == 3


def test_mpi(tmp_path):
    pytest.importorskip("mpi4py")
    mpiexec = Path(sys.executable).with_name("mpiexec")
    done = run_script(EXAMPLES / "mpi.py", before=(mpiexec, "-n", "2"), cwd=tmp_path)
    said = "Rows in the run's file: 40 (20 with pi of rank 0, 20 with pi of rank 1)\n"
    assert done.stdout == said
    rows = arms.rows(tmp_path)
    assert rows["pi of rank 0"] == rows["pi of rank 1"] == 20


def test_the_notebook_shows_what_is_committed(tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    path = EXAMPLES, ROOT / "tests" / "no_startup", ROOT
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, path)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    committed = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    notebook = copy.deepcopy(committed)
    folder = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=HANG_SECONDS, resources=folder).execute()
    for cell, executed in zip(committed.cells, notebook.cells):
        assert cell.get("outputs") == executed.get("outputs")
    rows = arms.rows(tmp_path)
    assert rows["loss of rank 0"] == rows["loss of rank 1"] == 40
