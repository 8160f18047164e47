"""A whole tree: what topics change in it, as a diff or as a copy of it."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

from wandb_ddp_patch.errors import CommandError

from .. import source_trees
from . import changelog, detect, overlay, style, syntax
from .topics import OPTIONAL, Topic, chosen

_FUTURE = "from __future__ import annotations"


class Change(NamedTuple):
    """What topics do to a tree.

    Attributes:
        files: The new text of each file that is changed, by its path in the tree.
        topics: Those that change something.
        notes: What a person should know, one line each.
    """

    files: Dict[str, str]
    topics: List[Topic]
    notes: List[str]


def change(tree: Path, names: Sequence[str] = ()) -> Change:
    """Return what topics change in a source tree of wandb.

    Args:
        tree: The folder that has ``wandb/__init__.py``; it is not changed.
        names: The topics; by default all.

    Raises:
        CommandError: It is no such tree, some of it is no Python, or it has been changed in
            the places that a topic changes.
    """
    source_trees.tree_version(tree)
    broken = source_trees.broken(tree)
    if broken:
        raise CommandError("; ".join(broken[:3]))
    todo, found, notes = chosen(names), Change({}, [], []), []
    does = detect.passing(tree, [topic for topic in todo if _lacks(tree, topic)])
    for topic in todo:
        new = {} if does.get(topic.name) else _with_topic(tree, topic, found.files)
        if not new:
            notes.append(f"{topic.name}: not needed: this tree does it")
            continue
        _check_order(tree, topic, todo)
        found.files.update(new)
        found.topics.append(topic)
        notes += changelog.notes(tree, topic)
    return found._replace(notes=notes)


def _check_order(tree: Path, topic: Topic, todo: List[Topic]) -> None:
    for other in chosen(topic.after) if topic.after else []:
        if other in todo or not _lacks(tree, other):
            continue
        if not detect.passing(tree, [other]).get(other.name):
            raise CommandError(
                f"{topic.name} builds on {other.name}, which this tree does not have yet:"
                f" apply the diff of --topic {other.name} first"
            )


def _lacks(tree: Path, topic: Topic) -> bool:
    """Return True if a tree's source lacks a topic; it may solve the problem differently."""
    try:
        return bool(_with_topic(tree, topic, {}, only_source=True))
    except CommandError:
        return True


def _with_topic(
    tree: Path, topic: Topic, changed: Dict[str, str], only_source: bool = False
) -> Dict[str, str]:
    """Return the files that a topic changes, given those that earlier topics changed."""
    new: Dict[str, str] = {}
    for file, part in topic.parts().items():
        if only_source and not file.startswith("wandb/"):
            continue
        before = changed.get(file) or _plain(tree / file)
        text = _with_part(topic, file, part, before, tree)
        if text is not None and text != before:
            new[file] = text
    if any(file.startswith("wandb/") for file in new):
        new.update(changelog.with_line(tree, topic, changed))
        return new
    return {}


def _with_part(
    topic: Topic, file: str, part: str, before: Optional[str], tree: Path
) -> Optional[str]:
    """Return the new text of a file, or None to leave the file alone."""
    was = topic.was(file)
    if before is None:
        if was is None:
            return part
        if file in OPTIONAL or not file.startswith("wandb/"):
            return None
        raise CommandError(f"{file} is not there: this tree is not one that the patches fit")
    if file in OPTIONAL and not _has_classes(was or "", before):
        return None
    if _FUTURE not in before and not source_trees.needs(tree, 10):
        # Not that import: with it, the ruff of older wandbs objects to other annotations.
        part = syntax.with_quoted_annotations(part.replace(f"{_FUTURE}\n", ""))
    laid = overlay.Overlay(part, was, before, file)
    if not laid.changes:
        return before
    text = laid.edited()
    if laid.imports:
        text = style.with_sorted_imports(overlay.with_imports(text, laid.imports), tree / file)
    return style.without_new_unused(text, before, tree / file)


def _has_classes(was: str, text: str) -> bool:
    names = syntax.top_level(syntax.parsed(was, ""))
    return set(names) <= set(syntax.top_level(syntax.parsed(text, "")))


def _plain(path: Path) -> Optional[str]:
    return source_trees.read(path).replace("\r\n", "\n") if path.is_file() else None


def diff(tree: Path, names: Sequence[str] = ()) -> str:
    """Return a unified diff that puts topics into a source tree of wandb.

    Returns:
        The diff, for ``git apply`` or ``patch -p1``; empty where the tree has it all.

    Raises:
        CommandError: As :func:`change`.
    """
    return as_diff(tree, change(tree, names).files)


def as_diff(tree: Path, files: Dict[str, str]) -> str:
    """Return a unified diff of changed files."""
    parts: List[str] = []
    for file, text in files.items():
        path = tree / file
        before = source_trees.read(path) if path.is_file() else ""
        old, new = syntax.lines(before), syntax.lines(style.with_line_ends(text, before))
        source = f"a/{file}" if path.is_file() else "/dev/null"
        for line in difflib.unified_diff(old, new, source, f"b/{file}"):
            parts.append(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n")
    return "".join(parts)


def applied(tree: Path, folder: Path, found: Change) -> None:
    """Copy a tree's Python files, with a change in them.

    Args:
        tree: The source tree.
        folder: The folder to write to; it must not exist.
        found: The change.
    """
    for source in (tree / "wandb").rglob("*.py"):
        target = folder / source.relative_to(tree)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    for file, text in found.files.items():
        before = source_trees.read(tree / file) if (tree / file).is_file() else ""
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(style.with_line_ends(text, before).encode("utf-8"))
