"""The folder of a pull request: its diff, and its text in the form that wandb asks for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Dict, List, Optional

from wandb_ddp_patch.errors import CommandError

from .. import source_trees
from . import changelog, tree_diff
from .topics import Topic

# What wandb's own says, for trees that have none.
_TEMPLATE = """Description
-----------
- Fixes WB-NNNNN
- Fixes #NNNN

What does the PR do? Include a concise description of the PR contents.

- [ ] I updated CHANGELOG.unreleased.md, or it's not applicable


Testing
-------
How was this PR tested?
"""


def export(tree: Path, name: str, folder: Path, report: Optional[Path] = None) -> List[str]:
    """Write ``change.diff`` and ``pull-request.md`` for one topic.

    Args:
        tree: The source tree; it is not changed.
        name: The topic.
        folder: The folder to write to; created if it does not exist.
        report: The folder of a testbed's report, for its numbers.

    Returns:
        Lines that say what has been written, or that nothing is needed.

    Raises:
        CommandError: The tree is not one that the topic fits, or there is no such report.
    """
    numbers = _numbers(report, tree) if report else None
    found = tree_diff.change(tree, [name])
    if not found.topics:
        return found.notes
    (topic,) = found.topics
    folder.mkdir(parents=True, exist_ok=True)
    patch = folder / "change.diff"
    patch.write_bytes(tree_diff.as_diff(tree, found.files).encode("utf-8"))
    text = folder / "pull-request.md"
    text.write_text(_text(tree, topic, found.files, numbers), "utf-8")
    lines = [*found.notes, f"written: {patch}", f"written: {text}"]
    if numbers is None:
        lines.append(
            "without the numbers of a report: make one with testbed TREE --with-export"
            " --run-tests --report DIR, and name it with --report DIR"
        )
    return lines


def _text(
    tree: Path, topic: Topic, files: Dict[str, str], numbers: Optional[Dict[str, Any]]
) -> str:
    path = tree / ".github" / "pull_request_template.md"
    template = source_trees.read(path).replace("\r\n", "\n") if path.is_file() else _TEMPLATE
    template = re.sub(r"\n?<!--.*?-->", "", template, flags=re.S).strip("\n")
    done = "x" if changelog.FILE in files else " "
    refs = "\n".join(f"- Refs #{number}" for number in topic.refs)
    fields = [
        (r"- Fixes WB-\w+\n", ""),
        (r"- Fixes #\w+", refs),
        (r"What does the PR do\?.*", topic.text.rstrip()),
        (r"- \[ \] (?=I updated CHANGELOG)", f"- [{done}] "),
        (r"How was this PR tested\?", _testing(topic, files, numbers)),
    ]
    for pattern, new in fields:
        parts = re.split(pattern, template, maxsplit=1)
        # In another template than wandb's of today nothing of ours is lost.
        template = new.join(parts) if len(parts) == 2 else f"{template}\n\n{new}".rstrip()
    line = "" if done == "x" else f"\n\nFor the change log, `{topic.section}`: {topic.line}"
    return f"# {topic.title}\n\n{template}{line}\n"


def _testing(topic: Topic, files: Dict[str, str], numbers: Optional[Dict[str, Any]]) -> str:
    tests = [file for file in files if file.startswith("tests/")]
    unit = [file for file in tests if "system_tests" not in file]
    lines = [
        f"New tests in {', '.join(f'`{file}`' for file in unit)}:",
        "",
        f"```shell\npytest {' '.join(unit)}\n```",
        "",
        "Without the change:",
        "",
        *(f"- `{test}` {_fails_with(reason)}" for test, reason in topic.reasons.items()),
    ]
    for file in tests:
        if file not in unit:
            lines += ["", f"A test in `{file}` asserted the old behavior, and is changed."]
    if numbers:
        lines += ["", *_measured(topic, numbers)]
    return "\n".join(lines)


def _fails_with(reason: str) -> str:
    return f"fails: `{reason}`" if reason else "passes, as it must go on to"


def _measured(topic: Topic, entry: Dict[str, Any]) -> List[str]:
    """Return lines with a report's results for a topic."""
    verdicts = entry["verdicts"]
    names = [name for name in topic.probes if name in verdicts.get("export", {})]

    def passing(side: str) -> int:
        return sum(verdicts.get(side, {}).get(name, {}).get("passed") is True for name in names)

    lines = [
        f"Of {len(names)} scripts that do what users do ({', '.join(names)}),"
        f" {passing('without')} pass without the change and {passing('export')} with it,"
        f" on Python {entry['python']}."
    ]
    without = verdicts.get("without", {})
    otherwise = [name for name in names if without.get(name, {}).get("otherwise")]
    if otherwise:
        lines += [f"For another reason than theirs fail without it: {', '.join(otherwise)}."]
    tests = entry.get("tests")
    if tests:
        # What the patch does there is nothing to wandb's reviewers.
        words = [word for word in tests["words"] if not word.startswith("With the patch")]
        lines += ["", "".join(f"{word[:1].upper()}{word[1:]}. " for word in words).rstrip()]
    return lines


def _numbers(report: Path, tree: Path) -> Dict[str, Any]:
    file = report / "report.json" if report.is_dir() else report
    try:
        data = json.loads(file.read_text("utf-8"))
        entries = [entry for entry in data["environments"] if "export" in entry["verdicts"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CommandError(f"{file}: no report of the testbed: {error}") from None
    mine = [entry for entry in entries if entry["label"].startswith(tree.name)]
    if not mine:
        raise CommandError(f"{file}: it has nothing about {tree.name} with the exported diff")
    found: Dict[str, Any] = mine[0]
    return found
