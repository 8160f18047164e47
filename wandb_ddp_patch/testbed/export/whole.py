"""A whole tree: its changed files, as a diff or as a copy of it."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Dict, List, Optional

from ...errors import Failure
from .. import standalone, trees
from . import along, splicing, style, syntax
from .splices import CONFIG, DISABLED, HOOKS, SPLICES


def diff(tree: Path) -> str:
    """Make a unified diff that puts the grafts into a source tree of wandb.

    Args:
        tree: The folder that has ``wandb/__init__.py``; it is not changed.

    Returns:
        The diff, for ``git apply`` or ``patch -p1``; empty where the tree has it all.

    Raises:
        Failure: It is no such tree, or a class in it is not the one that a graft fits.
    """
    parts: List[str] = []
    for file, text in changed(tree).items():
        before = trees.read(tree / file)
        for line in difflib.unified_diff(
            syntax.lines(before), syntax.lines(text), f"a/{file}", f"b/{file}"
        ):
            parts.append(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n")
    return "".join(parts)


def changed(tree: Path) -> Dict[str, str]:
    """Give the new text of each file that the diff changes, by its path in the tree.

    Raises:
        Failure: It is no such tree, or a class in it is not the one that a graft fits.
    """
    trees.tree_version(tree)
    texts = _spliced(tree)
    if (tree / HOOKS).is_file() and "add_safe_globals" not in texts[CONFIG]:
        imports = ["from .lib.import_hooks import register_post_import_hook"]
        text = texts[CONFIG].rstrip() + "\n\n" + standalone.TORCH
        texts[CONFIG] = along.with_imports(text, imports, tree / CONFIG)
    new = {}
    for file, text in texts.items():
        path = tree / file
        before = _read(path)
        if text != before:
            text = style.without_new_unused(text, before, path)
            new[file] = text.replace("\n", "\r\n") if "\r\n" in trees.read(path) else text
    return new


def _spliced(tree: Path) -> Dict[str, str]:
    """Give the text of each file that has a class of a graft, with the graft in it."""
    texts: Dict[str, str] = {}
    for splice in SPLICES:
        path = tree / splice.file
        if path.is_file():
            text = texts.get(splice.file) or _read(path)
            texts[splice.file] = splicing.spliced(splice, text, path)
        elif splice.file != DISABLED:  # of the past: nothing is amiss where it is gone
            raise Failure(f"{splice.file} is not there: this tree is not one that the grafts fit")
    return texts


def _read(path: Path) -> str:
    return trees.read(path).replace("\r\n", "\n")


def applied(tree: Path, folder: Path) -> Optional[Path]:
    """Copy a tree's Python files with the diff applied; None where it changes nothing.

    Args:
        tree: The source tree.
        folder: Where to; it must not exist.
    """
    new = changed(tree)
    for source in (tree / "wandb").rglob("*.py"):
        target = folder / source.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = new.get(source.relative_to(tree).as_posix())
        target.write_bytes(text.encode("utf-8") if text else source.read_bytes())
    return folder if new else None
