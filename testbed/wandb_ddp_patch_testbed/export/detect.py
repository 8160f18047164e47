"""Whether a tree does by itself what a topic is about: tried as the runtime tries it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict, List

import wandb_ddp_patch

from .topics import Topic

# The patches whose checks say so, by topic; for runs, a part of one.
_CHECKS = {
    "config": (("config", "Config"),),
    "summary": (("summary", "Summary"), ("summary", "SummaryDisabled")),
    "preinit": (("preinit", "PreInitCallable"),),
    "run": (("run", "is_same_run_in_owner"),),
    "torch": (("torch", "serialization"),),
}

_TRY = """
import importlib, json, sys
tree, todo = sys.argv[1], json.loads(sys.argv[2])
sys.path.insert(0, tree)
if "torch" in todo:
    try: import torch
    except ImportError: del todo["torch"]
import wandb
assert wandb.__file__.startswith(tree), wandb.__file__
found = {}
for topic, patches in todo.items():
    found[topic] = True
    for module, name in patches:
        module = importlib.import_module("wandb_ddp_patch.patches." + module)
        works = {patch.name: patch.is_fixed for patch in module.PATCHES}
        try: found[topic] = found[topic] and bool(works.get(name, getattr(module, name, None))())
        except Exception: found[topic] = False
print(json.dumps(found))
"""


def passing(tree: Path, topics: List[Topic]) -> Dict[str, bool]:
    """Try topics on a tree, in an interpreter of their own.

    Returns:
        Which pass, of those that could be tried: not where the tree's wandb can't be
        imported here, for want of something that it needs.
    """
    if not topics:
        return {}
    todo = {topic.name: _CHECKS[topic.name] for topic in topics}
    package = Path(wandb_ddp_patch.__file__).resolve().parent
    with tempfile.TemporaryDirectory() as empty:
        try:
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", _TRY, str(tree), json.dumps(todo)],
                env={**os.environ, "PYTHONPATH": str(package.parent), "WANDB_DDP_PATCH": "0"},
                cwd=empty,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=120,
            )
        except subprocess.TimeoutExpired:
            return {}
    try:
        found: Dict[str, bool] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return {}
    return found
