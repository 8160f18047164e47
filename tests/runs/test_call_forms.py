"""In whatever form a run is called in a worker, its row arrives."""

import json
import subprocess
import sys

import call_form_workers
import pytest
import step_workers
from conftest import clean_env
from limits import HANG_SECONDS

from wandb_ddp_patch import runfile

WHERE = [
    (None, "3.11", "fork"),
    (None, "3.11", "spawn"),
    ("0.21.4", "3.11", "fork"),
    ("0.16.6", "3.11", "fork"),
    ("0.12.21", "3.11", "fork"),
    ("0.12.21", "3.11", "spawn"),
    ("0.10.23", "3.9", "fork"),
]


@pytest.mark.parametrize(("version", "python", "method"), WHERE)
def test_every_road_leads_to_the_run(tmp_path, release, version, python, method):
    done = subprocess.run(
        [
            release(version, python) if version else sys.executable,
            call_form_workers.__file__,
            method,
        ],
        cwd=tmp_path,
        env=clean_env(WANDB_API_KEY="0123456789" * 4, PYTHONWARNINGS="ignore"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=HANG_SECONDS,
    )
    names = [form.__name__ for form in call_form_workers.FORMS]
    assert done.returncode == 0, done.stdout
    codes = json.loads((tmp_path / "codes.json").read_text())
    assert codes == dict.fromkeys(names, 0), done.stdout
    (file,) = runfile.find(str(tmp_path))
    rows = runfile.history(file)
    assert {name: sum(name in row for row in rows) for name in names} == dict.fromkeys(names, 1)


@pytest.mark.parametrize(
    ("version", "method"), [(None, "spawn"), ("0.16.6", "fork"), ("0.12.21", "fork")]
)
def test_rows_with_the_same_steps_are_all_kept(tmp_path, release, version, method):
    subprocess.run(
        [release(version) if version else sys.executable, step_workers.__file__, method],
        cwd=tmp_path,
        env=clean_env(WANDB_API_KEY="0123456789" * 4, PYTHONWARNINGS="ignore"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    (file,) = runfile.find(str(tmp_path))
    rows = runfile.history(file)
    steps = {
        n: [int(row["custom_step"]) for row in rows if row.get("worker") == str(n)]
        for n in range(step_workers.WORKERS)
    }
    assert steps == {key: list(range(step_workers.STEPS)) for key in steps}
    assert [row["_step"] for row in rows if "owner" in row] == ["1000"]
