"""Configs and files: defaults in the current folder, YAML, checkpoints."""

from __future__ import annotations

import copy
import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..offline_run import ITEMS, config_items, offline_run
from ..registry import CannotRun, check, probe


@probe(fails="RecursionError|KeyError: '__")
def config_defaults() -> None:
    """A config can be copied in a folder whose config-defaults.yaml is broken."""
    with offline_run() as run, tempfile.TemporaryDirectory() as folder:
        run.config.update({"kept": 1})
        Path(folder, "config-defaults.yaml").write_text("no: [yaml", "utf-8")
        here = os.getcwd()
        os.chdir(folder)
        try:
            for copied in (copy.copy(run.config), copy.deepcopy(run.config)):
                check(config_items(copied) == {**ITEMS, "kept": 1}, "the copy differs")
        finally:
            os.chdir(here)


@probe(fails="RepresenterError")
def yaml_config() -> None:
    """yaml writes a config and a summary in a form that safe_load() can read."""
    yaml: Any = importlib.import_module("yaml")
    dumpers = [yaml.SafeDumper, yaml.Dumper]
    dumpers += [getattr(yaml, name) for name in ("CSafeDumper", "CDumper") if hasattr(yaml, name)]
    with offline_run() as run:
        run.log({"x": 7})
        run.summary["best"] = {"x": 7}
        for dumper in dumpers:
            text = yaml.dump({"config": run.config, "summary": run.summary}, Dumper=dumper)
            read = yaml.safe_load(text)
            check(read["config"] == ITEMS, f"{dumper.__name__} wrote {read['config']}")
            check(read["summary"]["best"] == {"x": 7}, f"{dumper.__name__}: the summary differs")


# A script that evaluates a checkpoint need not import wandb.
_LOAD = """
import sys, wandb_ddp_patch, torch
assert "wandb" not in sys.modules
config, other = torch.load(sys.argv[1])["configs"]
assert (config.lr, other.lr) == (0.1, 0.1)
assert type(config) is type(other) is sys.modules["wandb"].Config
"""


@probe(5062, fails="weights_only", waits=True)
def checkpoint_alone() -> None:
    """A script that never imports wandb can load a checkpoint with a config."""
    try:
        import torch
    except ImportError:
        raise CannotRun("torch is not installed") from None
    if not hasattr(torch.serialization, "add_safe_globals"):
        raise CannotRun("this torch loads everything, by default")
    with offline_run() as run, tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "checkpoint.pt")
        other = type(run.config)()
        other.update(ITEMS)
        torch.save({"configs": [run.config, other]}, path)
        path_before = filter(None, [os.environ.get("PYTHONPATH")])
        parent = str(Path(__file__).parents[3])  # of this package, whose import patches it
        done = subprocess.run(
            [sys.executable, "-c", _LOAD, path],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([parent, *path_before])},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        check(done.returncode == 0, done.stderr.strip().rpartition("\n")[2])
