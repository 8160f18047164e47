"""Outcomes of tests, read from pytest's report, and whether their failures prove a change."""

from __future__ import annotations

import xml.etree.ElementTree
from pathlib import Path
from typing import Dict, NamedTuple, Optional, Sequence

from .export.topics import Topic


class Outcome(NamedTuple):
    """The outcome of one test.

    Attributes:
        state: ``passed``, ``failed`` or ``skipped``.
        error: What it failed with.
    """

    state: str
    error: str = ""


Outcomes = Dict[str, Outcome]


def read(file: Path) -> Outcomes:
    """Read pytest's report: the outcome of each test, by its node ID."""
    found: Outcomes = {}
    for case in xml.etree.ElementTree.parse(file).iter("testcase"):
        path = case.get("file") or ""
        module = path[: -len(".py")].replace("/", ".")
        inner = (case.get("classname") or "")[len(module) + 1 :]
        name = "::".join(filter(None, [path, inner.replace(".", "::"), case.get("name")]))
        parts = {child.tag: child for child in case}
        failure = parts.get("failure", parts.get("error"))
        if failure is not None:
            found[name] = Outcome("failed", _error(failure))
        else:
            found[name] = Outcome("skipped" if "skipped" in parts else "passed")
    return found


def _error(failure: xml.etree.ElementTree.Element) -> str:
    """Return the whole error: some pytests shorten the message, but not the lines marked E."""
    lines = (failure.text or "").splitlines()
    marked = [line[1:].strip() for line in lines if line.startswith("E ")]
    return "\n".join([failure.get("message") or "", *marked])


def fails(outcome: Optional[Outcome]) -> bool:
    return outcome is not None and outcome.state == "failed"


def counts(found: Outcomes) -> Dict[str, int]:
    states = [outcome.state for outcome in found.values()]
    return {state: states.count(state) for state in ("passed", "failed", "skipped")}


def doubt(name: str, without: Optional[Outcome], topics: Sequence[Topic]) -> str:
    """Return why a new test proves nothing, or an empty string if it proves its change.

    That a test fails without the change is no proof: it may fail at itself.

    Args:
        name: Its node ID.
        without: Its outcome without the change.
        topics: The topics that it may belong to, with the reasons that they state.
    """
    file, _, test = name.partition("::")
    reasons = [topic.reason_of(test) for topic in topics if file in topic.parts()]
    reason = next((reason for reason in reasons if reason is not None), None)
    if reason is None:
        return "it names no reason"
    if without is None or without.state == "skipped":
        return "it is not run without the change"
    if not reason:
        return f"it fails without the change, too: {_line(without)}" if fails(without) else ""
    if not fails(without):
        return "it passes without the change"
    if reason not in without.error:
        return f"it fails without the change for another reason: {_line(without)}"
    return ""


def _line(outcome: Outcome) -> str:
    return " ".join(outcome.error.split())[:200]
