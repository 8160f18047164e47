"""The line in wandb's change log, which its reviewers ask for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, List

from .. import source_trees
from .topics import Topic

FILE = "CHANGELOG.unreleased.md"
# What only the sender of the pull request knows, in the format of the lines there.
_BY = "(@USERNAME in https://github.com/wandb/wandb/pull/NUMBER)"
# In the order in which the file lists them.
_SECTIONS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


def with_line(tree: Path, topic: Topic, changed: Dict[str, str]) -> Dict[str, str]:
    """Return the file with a topic's line in it; empty if there is no such file."""
    if not (tree / FILE).is_file():
        return {}
    text = changed.get(FILE) or source_trees.read(tree / FILE).replace("\r\n", "\n")
    if topic.line in text:
        return {}
    return {FILE: _with(text, topic.section, f"- {topic.line} {_BY}")}


def _with(text: str, section: str, line: str) -> str:
    head, mark, rest = text.rstrip("\n").rpartition("\n## Unreleased")
    parts = re.split(r"\n+(?=### )", rest)
    names = [part[4:].split("\n")[0].strip() for part in parts[1:]]
    if section in names:
        at = names.index(section) + 1
        parts[at] = f"{parts[at].rstrip()}\n{line}"
    else:
        order = [*_SECTIONS, *names].index
        at = 1 + sum(order(name) < order(section) for name in names)
        parts.insert(at, f"### {section}\n\n{line}")
    return head + mark + "\n\n".join(part.rstrip() for part in parts) + "\n"


def notes(tree: Path, topic: Topic) -> List[str]:
    """Return notes about what a tree has no place for."""
    if (tree / FILE).is_file():
        return []
    return [f"{topic.name}: this tree has no {FILE} (an sdist has none): the line is in the text"]
