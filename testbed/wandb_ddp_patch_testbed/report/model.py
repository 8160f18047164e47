"""What a report says, in whatever form: its states, its counts and its names.

All forms are made from one dict, the report; ``docs/report-schema.md`` says what is
in it. What was not measured, because someone has interrupted it, is left out of
the dict, and is an empty cell here.
"""

from __future__ import annotations

import collections
import re
from typing import Any, Counter, Dict, Iterator, List, NamedTuple, Optional

Report = Dict[str, Any]
Environment = Dict[str, Any]

ISSUES = "https://github.com/wandb/wandb/issues/"

_SIDES = {
    "without": "without the patch",
    "with": "with the patch",
    "export": "with the exported diff, the patch off",
}


class State(NamedTuple):
    """How a cell of the matrix is shown."""

    symbol: str
    words: str
    ascii: str
    colour: str  # as rich calls it


# What a cell can be.
STATES = {
    "passes": State("\N{CHECK MARK}", "passes", "+", "cyan"),
    "fails": State("\N{BALLOT X}", "fails", "x", "bold red"),
    "otherwise": State("?", "fails for another reason than the probe's", "?", "red"),
    "hangs": State("H", "hangs", "H", "bold magenta"),
    "skipped": State("\N{EN DASH}", "can't be run here", "-", "yellow"),
    "missing": State("\N{MIDDLE DOT}", "no verdict", ".", "dim"),
}
# Colours and the like, which programs write into their tracebacks.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


# --- words and names --------------------------------------------------------


def clean(text: Any) -> str:
    """Return text without what a terminal would act upon."""
    return _ESCAPES.sub("", str(text))


def one_line(text: Any) -> str:
    """Return text without that and without line breaks."""
    return " ".join(clean(text).split())


def side_name(side: str) -> str:
    """Return the words for a side: "without", "with" or "export"."""
    return _SIDES.get(side, side)


def name_of(environment: Environment) -> str:
    """Return an environment's label, with its release if the label does not contain it."""
    label, release = one_line(environment["label"]), environment.get("release")
    return label if not release or release in label else f"{label} ({one_line(release)})"


def verdict_of(environment: Environment, side: str, probe: str) -> Optional[Dict[str, Any]]:
    """Return a probe's verdict in an environment, or None if it was not run."""
    verdict: Optional[Dict[str, Any]] = environment["verdicts"].get(side, {}).get(probe)
    return verdict


def state_of(verdict: Optional[Dict[str, Any]]) -> str:
    """Return the key in ``STATES`` of a verdict."""
    if verdict is None:
        return "missing"
    if verdict["passed"] is None:
        return "skipped"
    if verdict["passed"]:
        return "passes"
    if verdict["reason"].startswith("hangs"):
        return "hangs"
    return "otherwise" if verdict.get("otherwise") else "fails"


def marks(report: Report, environment: Environment, probe: str) -> str:
    """Return a cell's symbols, one for each side."""
    states = (state_of(verdict_of(environment, side, probe)) for side in report["sides"])
    return "".join(STATES[state].symbol for state in states)


def tally_of(report: Report, environments: List[Environment], side: str) -> Counter[str]:
    """Count the states of one side; an environment that can't be run has none."""
    return collections.Counter(
        state_of(verdict_of(environment, side, probe["name"]))
        for environment in environments
        if not environment["error"]
        for probe in report["probes"]
    )


def judged(tally: Counter[str]) -> int:
    """Count those that came to an end, or had to be ended."""
    return sum(tally[state] for state in ("passes", "fails", "otherwise", "hangs"))


def passing(report: Report, environments: List[Environment], side: str, noun: str = "") -> str:
    """Return words for how many pass of those that finished, and what happened to the others."""
    tally, rest = tally_of(report, environments, side), besides(report, environments, side)
    return f"{tally['passes']} of {judged(tally)}{noun}" + (f" ({rest})" if rest else "")


def besides(report: Report, environments: List[Environment], side: str) -> str:
    """Return words for how many fail for an unexpected reason or have no verdict, or ''."""
    tally = tally_of(report, environments, side)
    verdicts = [verdict for e in environments for verdict in e["verdicts"].get(side, {}).values()]
    why = collections.Counter(one_line(v["reason"]) for v in verdicts if v["passed"] is None)
    reasons = ", ".join(f"{w} ({n})" if len(why) > 1 else w for w, n in why.most_common())
    words = (
        (tally["otherwise"], "fail for another reason"),
        (tally["skipped"], f"can't be run: {reasons}"),
        (tally["missing"], "without a verdict"),
    )
    return ", ".join(f"{count} {word}" for count, word in words if count)


def differs(report: Report, probe: str) -> bool:
    """Return True if a probe's result on some side differs between environments."""
    for side in report["sides"]:
        verdicts = (verdict_of(environment, side, probe) for environment in report["environments"])
        # A probe that was not run has no result, which is no difference.
        if len({*map(state_of, verdicts)} - {"skipped", "missing"}) > 1:
            return True
    return False


def commit_of(environment: Environment) -> str:
    """Return the commit of a source tree, or an empty string if it has none."""
    commit = environment.get("commit")
    return f"commit {commit[:10]}{', changed' * environment['changed']}" if commit else ""


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def size(report: Report) -> str:
    """Return words for how many environments and probes there are."""
    environments, probes = len(report["environments"]), len(report["probes"])
    return f"{_plural(environments, 'environment')} and {_plural(probes, 'probe')}"


def broken(report: Report) -> List[str]:
    """Return a line that says how many environments could not be run, or no line."""
    count = sum(bool(environment["error"]) for environment in report["environments"])
    return [f"{_plural(count, 'environment')} could not be run."] if count else []


def summary(report: Report) -> List[str]:
    """Return one or two lines that say how many cells pass on each side."""
    counts = [
        f"{passing(report, report['environments'], side, ' cells')} pass {side_name(side)}"
        for side in report["sides"]
    ]
    return [f"{size(report)}: {'; '.join(counts)}.", *broken(report)]


def symbols() -> str:
    """Return words for what each symbol means."""
    return ", ".join(f"{state.symbol} {state.words}" for state in STATES.values())


class Failing(NamedTuple):
    """A cell that should pass and does not."""

    environment: Environment
    side: str
    probe: Dict[str, Any]
    verdict: Dict[str, Any]
    cell: str  # its place in the matrix


def failures(report: Report) -> Iterator[Failing]:
    """Yield what should pass and does not; without the patch, failures are expected."""
    for row, environment in enumerate(report["environments"], 1):
        for side in report["sides"]:
            for column, probe in enumerate(report["probes"], 1):
                verdict = verdict_of(environment, side, probe["name"])
                if side != "without" and verdict and verdict["passed"] is False:
                    cell = f"cell-{row}-{column}"
                    yield Failing(environment, side, probe, verdict, cell)


def when(report: Report) -> str:
    """Return the date and time of the measurement."""
    return f"{report['created'][:10]} {report['created'][11:16]} UTC"


def where(report: Report) -> str:
    """Return words for this package's version and the machine."""
    return (
        f"wandb_ddp_patch {one_line(report['wandb_ddp_patch'])}, {one_line(report['system'])},"
        f" {_plural(report['cores'], 'core')}"
    )
