"""A program that PyInstaller has frozen: what its workers get, and what arrives of their rows."""

import os
import subprocess
import sys

import arms
import pytest
from conftest import ROOT, clean_env
from limits import HANG_SECONDS

# Not needed here, and large.
EXCLUDED = (
    "IPython dask datasets lightning matplotlib pandas pyarrow ray sklearn torch transformers"
)


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frozen")
    without = [option for name in EXCLUDED.split() for option in ("--exclude-module", name)]
    # wandb-core, which wandb starts, is data.
    options = ["--onedir", "--collect-data", "wandb", *without]
    done = subprocess.run(
        [sys.executable, "-m", "PyInstaller", *options, str(arms.HERE / "frozen_app.py")],
        cwd=folder,
        env=clean_env(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=3 * HANG_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return folder / "dist" / "frozen_app" / "frozen_app"


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_workers_of_a_frozen_program(app, tmp_path, method):
    done = subprocess.run(
        [app, method],
        cwd=tmp_path,
        env=clean_env(PYTHONPATH=os.devnull),
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "skipped: []\n[0.5, 0.5, 0.5, 0.5]\n"
    rows = arms.rows(tmp_path)
    assert (rows["rank 0"], rows["rank 1"]) == (3, 3)
