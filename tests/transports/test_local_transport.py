"""Runs of releases in which a run works in one process only (to 0.12)."""

import json
import os
from pathlib import Path

import local_transport_worker
import pytest
from rows import column
from scripts import WORKER_ENV

from wandb_ddp_patch import runfile

SCRIPT = local_transport_worker.__file__


@pytest.mark.parametrize(
    ("version", "python", "method"),
    [
        ("0.12.21", "3.11", "spawn"),
        ("0.12.21", "3.11", "fork"),
        ("0.10.23", "3.9", "spawn"),
        ("0.10.23", "3.9", "fork"),
    ],
)
def test_what_a_relayed_run_can_do(run_prepared, tmp_path, release, version, python, method):
    run_prepared(SCRIPT, method, python=release(version, python), env=WORKER_ENV)
    seen = json.loads((tmp_path / "seen.json").read_text())
    (file,) = runfile.find(str(tmp_path))

    assert seen["globals"] == [True, True, True]
    assert seen["config"].startswith("ConfigError: Attempted to change value of key")
    expected = {"lr": 8, "new": {"x": 1}, "item": 5, "attribute": 3}
    assert seen["owner's config"] == expected
    assert seen["summary"] == [1, 2, 2]
    files = os.path.join(os.path.dirname(file), "files")
    assert seen["properties"][:3] == ["some notes", "new name", files]
    for name in ("log_artifact", "watch"):
        assert seen[name].startswith(
            f"UsageError: run.{name}() does not work in a worker with wandb {version}: use it in"
            " the process that called wandb.init(). What works in a worker: log, "
        )
    assert "Error: " in str(seen["settings"])
    assert seen["lock"].startswith("TypeError: The arguments of run.log() can't be sent")
    assert seen["no dict"] == "ValueError: wandb.log must be passed a dictionary"
    assert "this worker has called finish()" in seen["finished"]
    assert seen["current"] is True
    assert seen["pool"] == [True] * 3
    assert (seen["exit code"], seen["secret"], seen["late"]) == (0, False, None)

    rows = runfile.history(file)
    assert column(rows, "order") == list(range(20))
    for n in range(3):
        assert column(rows, f"thread {n}") == list(range(50))
    assert [row["a"] for row in rows if "a" in row] == ["1", "2"]
    assert [row["custom_step"] for row in rows if "custom_step" in row] == ["10"]
    assert sum("html" in row for row in rows) == sum("owner" in row for row in rows) == 1
    assert [row["task"] for row in rows if "task" in row] == ["0", "1", "2"]
    assert runfile.exit_code(file) == 0
    by_kind = {"config": {}, "summary": {}, "metric": [], "files": [], "alert": []}
    for record in runfile.records(file):
        kind = record.WhichOneof("record_type")
        value = getattr(record, kind)
        if kind in ("config", "summary"):
            by_kind[kind].update({item.key: json.loads(item.value_json) for item in value.update})
        elif kind == "metric":
            by_kind[kind].append((value.name, value.options.defined))
        elif kind == "files":
            by_kind[kind] += [item.path for item in value.files]
        elif kind == "alert":
            by_kind[kind].append((value.title, value.text))
    assert by_kind["config"].items() >= {**expected}.items()
    assert by_kind["summary"].items() >= {"best": 1, "more": {"x": 2}}.items()
    assert ("loss", True) in by_kind["metric"]
    assert {"saved.txt", "folder/saved.txt"} <= set(by_kind["files"])
    assert by_kind["alert"] == [("title", "text")]
    assert Path(files, "saved.txt").read_text() == "saved"
