"""An environment for each side of a wandb, and whether that wandb can be imported there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Dict, List

from wandb_ddp_patch import probes
from wandb_ddp_patch.errors import CommandError

from . import environments, export, source_trees, upstream_ruff
from .plan import EXPORT, SIDES, Entry
from .specs import Target


def prepare(
    entry: Entry, shown: Dict[str, Any], sides: List[str], interpreters: Dict[str, str]
) -> None:
    """Create the environments of an entry.

    Args:
        entry: The wandb and its Python.
        shown: Its part of the report, which gets notes.
        sides: Those that are probed.
        interpreters: Receives the interpreter of each side as soon as its environment exists.

    Raises:
        CommandError: One can't be created, or its wandb can't be imported; the message says why.
        OSError: There is no room for it, or the like.
    """
    target, python = entry
    interpreter = target.make(python)
    interpreters.update(dict.fromkeys(SIDES, interpreter))
    if target.tree:
        shown["notes"] += environments.notes_of(interpreter)
        shown["notes"] += source_trees.broken(target.tree)[:3]
    _importable(interpreter, f"wandb {target.label}", python)
    if EXPORT in sides:
        interpreters[EXPORT] = _exported(target, python, shown)


def remove(entry: Entry, interpreters: Dict[str, str]) -> None:
    """Remove the environments of an entry, unless they are a release's."""
    target, _ = entry
    if target.tree or os.path.exists(target.requirement):
        for interpreter in interpreters.values():
            environments.remove(interpreter)


def _importable(interpreter: str, what: str, python: str) -> None:
    env = {key: val for key, val in os.environ.items() if key != "PYTHONPATH"}
    try:
        done = subprocess.run(
            [interpreter, "-W", "ignore", "-c", "import wandb; wandb.Config"],
            env={**env, "WANDB_DDP_PATCH": "0"},
            cwd=Path(interpreter).parent,  # where there is no other wandb
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=120,
        )
    except subprocess.TimeoutExpired:
        raise CommandError(f"importing {what} hangs on Python {python}") from None
    if done.returncode:
        raise CommandError(f"Python {python} can't run {what}: {_why(done.stderr)}")


def _why(stderr: str) -> str:
    """Return why an import failed; for a syntax error, with file and line."""
    last = probes.last_line(stderr)
    where = re.findall(r'File ".*?site-packages/(.+?)", line (\d+)', stderr.replace("\\", "/"))
    if where and last.startswith(("SyntaxError", "IndentationError", "TabError")):
        return f"{where[-1][0]}, line {where[-1][1]}: {last}"
    return last


def _exported(target: Target, python: str, shown: Dict[str, Any]) -> str:
    assert target.tree
    folder = Path(tempfile.mkdtemp(prefix="wandb_ddp_patch-export-"))
    try:
        found = export.change(target.tree)
        shown["notes"] += found.notes
        if found.topics:
            shown["notes"].append(upstream_ruff.checked(target.tree, found.files))
        else:
            shown["notes"].append("the exported diff is empty: the tree has it all")
        export.applied(target.tree, folder / "tree", found)
        label = f"{target.label}-exported"
        return environments.overlaid(label, folder / "tree", target.release, python)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
