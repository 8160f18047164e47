"""The topics: each is a pull request of its own, with its source, its tests and its text.

A topic's folder is laid over a tree of wandb. Its Python files hold what is put into the
tree's files of the same paths; those in ``was/`` hold the forms that the replaced parts
have had in wandb, and name the classes that must be there. ``pull-request.txt`` is the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterable, List, Optional, Tuple

from wandb_ddp_patch.errors import CommandError

_FOLDER = Path(__file__).with_name("topics")

# Of the past: nothing is amiss where they are gone, or have no such class yet.
OPTIONAL = ("wandb/sdk/lib/disabled.py",)


@dataclass(frozen=True)
class Topic:
    """One pull request.

    Attributes:
        name: Its name on the command line.
        title: As wandb's check of titles wants it.
        refs: wandb's issues that it would have spared, or that name it. All are closed:
            an open one that it mends would need "Fixes" before its number.
        probes: Those that must pass with it.
        after: Topics without which it does not work.
        reasons: What the error says with which each of its tests fails without it, by the
            test's name; empty for a test that passes without it, too.
        section: Of the change log.
        line: For users, in it.
        text: What is broken, and what this does.
    """

    name: str
    title: str
    refs: Tuple[int, ...]
    probes: Tuple[str, ...]
    after: Tuple[str, ...]
    reasons: Dict[str, str]
    section: str
    line: str
    text: str

    def reason_of(self, test: str) -> Optional[str]:
        """Return why a test must fail without the topic, or None if no reason is stated."""
        return self.reasons.get(test, self.reasons.get(test.partition("[")[0]))

    def parts(self) -> Dict[str, str]:
        """Return what is put into each file, by its path in the tree; source comes first."""
        folder = _FOLDER / self.name
        found = [path.relative_to(folder).as_posix() for path in folder.rglob("*.py")]
        found = [path for path in found if not path.startswith("was/")]
        order = sorted(found, key=lambda path: (not path.startswith("wandb/"), path))
        return {path: (folder / path).read_text("utf-8") for path in order}

    def was(self, path: str) -> Optional[str]:
        """Return the known earlier forms of a file's replaced parts, or None for a new file."""
        file = _FOLDER / self.name / "was" / path
        return file.read_text("utf-8") if file.is_file() else None


def _read(name: str) -> Topic:
    text = (_FOLDER / name / "pull-request.txt").read_text("utf-8")
    fields = dict(re.findall(r"^(Refs|Probes|After): (.+)$", text, re.M))
    found = re.fullmatch(
        r"# (.+?)\n.*## Tests, .+?\n+(.+?)\n+"
        r"## Changelog\n+### (\w+)\n+(.+?)\n+## Description\n+(.+)",
        text,
        re.S,
    )
    assert found, name
    reasons = (line.partition(": ") for line in found.group(2).splitlines())
    return Topic(
        name,
        found.group(1),
        tuple(int(issue) for issue in _listed(fields["Refs"])),
        tuple(_listed(fields["Probes"])),
        tuple(_listed(fields.get("After", ""))),
        {test: "" if reason == "passes" else reason for test, _, reason in reasons},
        *found.groups()[2:],
    )


def _listed(words: str) -> List[str]:
    return [word for word in words.split(", ") if word]


# In the order in which they are best sent.
TOPICS = {name: _read(name) for name in ("config", "summary", "preinit", "run", "torch")}


def chosen(names: Iterable[str]) -> List[Topic]:
    """Return the topics of these names, or all if there are no names.

    Raises:
        CommandError: There is no such topic.
    """
    names = list(names)
    unknown = [name for name in names if name not in TOPICS]
    if unknown:
        raise CommandError(f"no such topic: {', '.join(unknown)} (there are {', '.join(TOPICS)})")
    return [topic for name, topic in TOPICS.items() if name in names or not names]
