"""Upstream's style, which ruff gives, as the tree itself says what it is."""

from __future__ import annotations

import subprocess
import textwrap
from pathlib import Path
from typing import List

from ...errors import Failure
from .. import extra


def formatted(source: str, path: Path, inside: bool = False) -> str:
    """Format a piece of a file as upstream does.

    Args:
        source: The piece.
        path: The file's path.
        inside: Whether it stands in a class.
    """
    source = textwrap.dedent(source)
    if inside:
        source = "class _:\n" + textwrap.indent(source, "    ")
    source = _ruff(["format", "--quiet"], source, path)
    return source.split("\n", 1)[1] if inside else source


def with_sorted_imports(text: str, path: Path) -> str:
    """Sort a file's imports."""
    return _ruff(["check", "--quiet", "--select", "I", "--fix"], text, path)


def without_new_unused(text: str, before: str, path: Path) -> str:
    """Take out imports that replaced functions alone have used; not what had no use before."""
    unused = ["check", "--quiet", "--select", "F401", "--fix"]
    return _ruff(unused, text, path) if _ruff(unused, before, path) == before else text


def _ruff(arguments: List[str], text: str, path: Path) -> str:
    try:
        from ruff.__main__ import find_ruff_bin
    except ImportError:
        raise Failure(f"export-diff needs more: {extra.INSTALL}") from None
    command = [find_ruff_bin(), *arguments, "--stdin-filename", str(path), "-"]
    # From the tree's root: ruff looks there for what is the tree's own.
    root = next(folder for folder in path.parents if (folder / "wandb" / "__init__.py").is_file())
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, encoding="utf-8", cwd=root
    )
    if done.returncode and not done.stdout:
        raise Failure(f"ruff, on {path.name}: {' '.join(done.stderr.split())[-300:]}")
    return done.stdout
