"""The ruff that a tree pins, asked about the files that a change touches, and no others."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Dict, List, Set

from wandb_ddp_patch.errors import CommandError

from . import source_trees
from .uvtool import run_uv, why

_HOOKS = ".pre-commit-config.yaml"


def ruff_of(tree: Path) -> str:
    """Return the version of ruff that a tree pins, or an empty string if it pins none."""
    path = tree / _HOOKS
    text = source_trees.read(path) if path.is_file() else ""
    found = re.search(r"/ruff-pre-commit\s+rev: [\"']?v?([\d.]+)", text)
    return found.group(1) if found else ""


def checked(tree: Path, files: Dict[str, str]) -> str:
    """Return what the tree's ruff reports about changed files and did not report before.

    Args:
        tree: The source tree.
        files: The new text of each changed file, by its path in the tree.

    Returns:
        A sentence.
    """
    version = ruff_of(tree)
    if not version:
        return f"this tree pins no ruff (it has no {_HOOKS}): the diff's style is unchecked"
    python = {file: text for file, text in files.items() if file.endswith(".py")}
    try:
        before = {file: _text(tree / file) for file in python}
        new = _findings(tree, version, python) - _findings(tree, version, before)
    except CommandError as error:
        return f"ruff {version}, which this tree pins, could not be asked: {error}"
    if new:
        shown = "; ".join(sorted(new)[:5])
        return f"ruff {version}, which this tree pins, finds in what the diff adds: {shown}"
    return f"ruff {version}, which this tree pins, is content with the {len(python)} changed files"


def _text(path: Path) -> str:
    return source_trees.read(path).replace("\r\n", "\n") if path.is_file() else ""


def _findings(tree: Path, version: str, files: Dict[str, str]) -> Set[str]:
    """Return what ruff reports about files, without line numbers, which move."""
    with tempfile.TemporaryDirectory() as folder:
        for settings in ("pyproject.toml", "tests/ruff.toml"):
            if (tree / settings).is_file():
                _write(Path(folder, settings), source_trees.read(tree / settings))
        for file, text in files.items():
            _write(Path(folder, file), text)
        return {
            *_ruff(folder, version, "check", "--output-format", "concise"),
            *_ruff(folder, version, "format", "--check"),
        }


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def _ruff(folder: str, version: str, *arguments: str) -> List[str]:
    ruff = ("tool", "run", "--from", f"ruff=={version}", "ruff")
    done = run_uv(*ruff, *arguments, "--no-cache", ".", cwd=folder, check=False)
    if done.returncode not in (0, 1):
        raise CommandError(why(done.stderr))
    found = []
    for line in done.stdout.splitlines():
        if re.match(r"\S+\.py:\d+|Would reformat", line):
            found.append(re.sub(r":\d+:\d+", "", line))
    return found
