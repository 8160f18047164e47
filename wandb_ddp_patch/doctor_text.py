"""What people see of ``doctor``: its progress, and tables of what it found."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from typing import List, Optional, TypedDict

_COLOURS = {"passes": "32", "applied": "32", "FAILS": "31", "skipped": "33", "fails": "33"}


class PatchState(TypedDict):
    """What became of a patch: the fields of ``Status``."""

    target: str
    state: str
    why: str
    since: str


class Environment(TypedDict):
    """What is installed and patched, by the keys of ``doctor --json``."""

    wandb_ddp_patch: str
    enabled: bool
    python: str
    executable: str
    platform: str
    wandb: Optional[str]
    wandb_error: Optional[str]
    torch: Optional[str]
    startup_files: List[str]
    imported_by: str
    inactive: Optional[str]
    patches: List[PatchState]


class Outcome(TypedDict):
    """What a probe found on one side; ``passed`` is None where it can't be run."""

    passed: Optional[bool]
    reason: str


# A probe, and what it found without and with the patch. Not a class: "with" is a keyword.
ProbeRow = TypedDict("ProbeRow", {"name": str, "what": str, "without": Outcome, "with": Outcome})


def progress(line: str) -> None:
    """Show the progress: a terminal's one line is overwritten, elsewhere lines are added."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write("\r" + line[:width].ljust(width) + ("" if line else "\r"))
    elif line:
        sys.stderr.write(line + "\n")
    sys.stderr.flush()


def coloured(word: str) -> str:
    """Return a word in its colour, if standard output is a terminal that shows colours."""
    # https://no-color.org
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    if word.strip() not in _COLOURS or plain or not sys.stdout.isatty():
        return word
    return f"\033[{_COLOURS[word.strip()]}m{word}\033[0m"


def status(facts: Environment) -> str:
    """Return a sentence on whether this environment's scripts are patched."""
    subject = f"wandb_ddp_patch {facts['wandb_ddp_patch']} is"
    if facts["inactive"]:
        return f"{subject} {facts['inactive']}."
    states = [patch["state"] for patch in facts["patches"]]
    sentence = f"{subject} active: {states.count('applied')} patches on wandb {facts['wandb']}"
    skipped = [patch["target"] for patch in facts["patches"] if patch["state"] == "skipped"]
    return (
        f"{sentence}; not those that do not fit it: {', '.join(skipped)}."
        if skipped
        else f"{sentence}."
    )


def environment(facts: Environment) -> str:
    """Return the tables of what is installed and patched: see ``doctor.environment()``."""
    version = facts["wandb_ddp_patch"] + ("" if facts["enabled"] else ", off: WANDB_DDP_PATCH=0")
    rows = [
        ("wandb_ddp_patch", version),
        ("Python", f"{facts['python']}, {facts['executable']}"),
        ("platform", facts["platform"]),
        ("wandb", facts["wandb"] or "not installed"),
        ("torch", facts["torch"] or "not installed"),
        ("start-up files", ", ".join(facts["startup_files"]) or "not installed"),
        ("imported by", facts["imported_by"]),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:{width}}  {value}" for name, value in rows]
    if facts["inactive"]:
        lines.extend(textwrap.wrap(facts["inactive"], 96, initial_indent="  "))
    lines.append("")
    width = max(len(patch["target"]) for patch in facts["patches"])
    for patch in facts["patches"]:
        state = coloured(f"{patch['state']:18}")
        lines.append(f"{patch['target']:{width}}  {state}  {patch['since']}")
        if patch["state"] == "skipped":
            lines.extend(textwrap.wrap(patch["why"], 96, initial_indent="  "))
    return "\n".join([*lines, ""])


def probes(rows: List[ProbeRow]) -> str:
    """Return the table of probes, without and with the patch, and a verdict on all of them."""
    width = max(len(row["name"]) for row in rows)
    lines = [f"{'probe':{width}}  without  with"]
    for row in rows:
        without, with_ = row["without"], row["with"]
        words = (
            {True: "passes", False: "fails", None: "-"}[without["passed"]],
            {True: "passes", False: "FAILS", None: "-"}[with_["passed"]],
        )
        # What is wrong with the patch on, if anything; otherwise what it mends.
        reason = with_["reason"] if with_["passed"] is not True else without["reason"]
        reason = "" if with_["passed"] and without["passed"] else reason
        cells = f"{coloured(f'{words[0]:7}')}  {coloured(f'{words[1]:6}')}"
        lines.append(f"{row['name']:{width}}  {cells}  {textwrap.shorten(reason, 90)}".rstrip())
    without_it = sum(row["without"]["passed"] is True for row in rows)
    with_it = sum(row["with"]["passed"] is True for row in rows)
    lines.append("")
    lines.append(f"Of {len(rows)} probes, {without_it} pass without the patch, {with_it} with it.")
    return "\n".join([*lines, verdict(rows)])


def verdict(rows: List[ProbeRow]) -> str:
    """Return a sentence that says whether all is well."""
    failed = [row["name"] for row in rows if row["with"]["passed"] is False]
    untried = sum(row["with"]["passed"] is None for row in rows)
    if failed:
        return f"Something is wrong here: with the patch, still failing: {', '.join(failed)}."
    if untried == len(rows):
        return "Nothing is known: no probe can be run here."
    if untried:
        return f"All is well, as far as can be tried: {untried} of the probes can't be run here."
    return "All is well: with the patch, no probe fails."
