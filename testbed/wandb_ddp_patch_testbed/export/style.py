"""Upstream's style: imports as ruff sorts them in this tree, and each file's line ends."""

from __future__ import annotations

import difflib
import subprocess
from pathlib import Path
from typing import List

from ruff.__main__ import find_ruff_bin

from wandb_ddp_patch.errors import CommandError

from . import syntax


def with_sorted_imports(text: str, path: Path) -> str:
    """Sort a file's imports."""
    return _ruff(["check", "--quiet", "--select", "I", "--fix"], text, path)


def without_new_unused(text: str, before: str, path: Path) -> str:
    """Remove imports that only replaced functions used; keep those that were unused before."""
    unused = ["check", "--quiet", "--select", "F401", "--fix"]
    return _ruff(unused, text, path) if _ruff(unused, before, path) == before else text


def with_line_ends(text: str, before: str) -> str:
    """Return text whose lines keep their line ends; a new line gets that of the line above."""
    old, new = syntax.lines(before), syntax.lines(text)
    plain = [line.replace("\r\n", "\n") for line in old]
    matcher = difflib.SequenceMatcher(None, plain, new, autojunk=False)
    found: List[str] = []
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            found += old[i1:i2]
        else:
            beside = old[i1 - 1] if i1 else "".join(old[:1])
            end = "\r\n" if beside.endswith("\r\n") else "\n"
            found += [line.rstrip("\n") + end for line in new[j1:j2]]
    return "".join(found)


def _ruff(arguments: List[str], text: str, path: Path) -> str:
    command = [find_ruff_bin(), *arguments, "--stdin-filename", str(path), "-"]
    # From the tree's root: ruff looks there for what is the tree's own.
    root = next(folder for folder in path.parents if (folder / "wandb" / "__init__.py").is_file())
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, encoding="utf-8", cwd=root
    )
    if done.returncode and not done.stdout:
        raise CommandError(f"ruff, on {path.name}: {' '.join(done.stderr.split())[-300:]}")
    return done.stdout
