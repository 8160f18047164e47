"""A report's exit status: whether the patch, and the exported diff, do what they must."""

from __future__ import annotations

from typing import Any, Dict, List

from . import export
from .plan import EXPORT

# Of what the classes are by themselves: these must pass with the exported diff.
ALONE = ("config-", "summary-names", "summary-copy", "preinit", "run-same-process")


def exit_status(data: Dict[str, Any]) -> int:
    """Return a report's exit status, and print what the diff can't do, or prove."""
    bad = [entry["label"] for entry in data["environments"] if entry["error"]]
    for entry in data["environments"]:
        tests = entry.get("tests", {})
        if any(tests.get("worse", {}).values()) or tests.get("unproven"):
            bad.append(entry["label"])
        for side, verdicts in entry["verdicts"].items():
            failed = [name for name, verdict in verdicts.items() if verdict["passed"] is False]
            if side == EXPORT:
                failed = _with_the_diff(entry, failed) + _unproven(entry)
            if side != "without" and failed:
                bad.append(entry["label"])
    return 1 if bad else 0


def _unproven(entry: Dict[str, Any]) -> List[str]:
    """Return the probes that the diff fixes and that fail without it for an unexpected reason."""
    without = entry["verdicts"].get("without", {})
    names = [n for n, v in without.items() if n.startswith(ALONE) and v.get("otherwise")]
    if names:
        print(
            f"{entry['label']}: as it is these fail for another reason than the probe's, so that"
            f" passing with the diff proves nothing: {', '.join(names)}"
        )
    return names


def _with_the_diff(entry: Dict[str, Any], failed: List[str]) -> List[str]:
    """Return which of the failed probes should have passed with the diff alone."""
    fine = [n for n, v in entry["verdicts"].get("without", {}).items() if v["passed"]]
    must = [name for name in failed if name.startswith(ALONE) or name in fine]
    others = [name for name in failed if name not in must]
    if others:
        print(
            f"{entry['label']}: with the diff alone these fail, as they must:"
            f" {', '.join(others)}; {export.NEEDS_WORKER_CODE}"
        )
    return must
