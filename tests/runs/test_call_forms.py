"""In whatever form a run is called in a worker, its row arrives."""

import json
import subprocess

import call_form_workers
import pytest
import step_workers
from rows import column, read_rows
from scripts import WORKER_ENV

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
def test_every_road_leads_to_the_run(run_prepared, tmp_path, release, version, python, method):
    done = run_prepared(
        call_form_workers.__file__,
        method,
        python=release(version, python),
        env=WORKER_ENV,
        stderr=subprocess.STDOUT,
    )
    names = [form.__name__ for form in call_form_workers.FORMS]
    codes = json.loads((tmp_path / "codes.json").read_text())
    assert codes == dict.fromkeys(names, 0), done.stdout
    rows = read_rows(tmp_path)
    assert {name: sum(name in row for row in rows) for name in names} == dict.fromkeys(names, 1)


@pytest.mark.parametrize(
    ("version", "method"), [(None, "spawn"), ("0.16.6", "fork"), ("0.12.21", "fork")]
)
def test_rows_with_the_same_steps_are_all_kept(run_prepared, tmp_path, release, version, method):
    run_prepared(step_workers.__file__, method, python=release(version), env=WORKER_ENV)
    rows = read_rows(tmp_path)
    steps = {
        n: column([row for row in rows if row.get("worker") == str(n)], "custom_step")
        for n in range(step_workers.WORKERS)
    }
    assert steps == {key: list(range(step_workers.STEPS)) for key in steps}
    assert [row["_step"] for row in rows if "owner" in row] == ["1000"]
