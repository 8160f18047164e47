"""The report as Markdown, as GitHub shows it."""

from __future__ import annotations

import re
from typing import Any, Iterator, List

from . import model
from .model import Environment, Report


def markdown(report: Report, details: bool = True) -> str:
    """Write the report as Markdown, as GitHub shows it.

    Args:
        report: The report.
        details: Whether to show each probe, and what fails with the patch; else the
            summary and a table of the environments, with no title, for a README.

    Returns:
        Lines, which end in a line break.
    """
    lines = [
        f"On {report['created'][:10]}, {escaped(model.where(report))}."
        f" {' '.join(model.summary(report))}",
        "",
        *_table(
            ["wandb", "Python", *map(model.side_name, report["sides"])],
            [_counts(report, environment) for environment in report["environments"]],
        ),
    ]
    if details:
        lines = [f"# wandb without and with the patch, {report['created'][:10]}", "", *lines]
        if report.get("command"):
            lines += ["", "To find the same once more:", "", *_block(report["command"], "sh")]
        lines.extend(_probes(report))
        lines.extend(_notes(report))
        lines.extend(_failures(report))
    return "\n".join(lines) + "\n"


def _counts(report: Report, environment: Environment) -> List[str]:
    row = [escaped(model.name_of(environment)), escaped(environment["python"])]
    if environment["error"]:
        # Tables have no cells that span columns here: all columns but one are empty.
        return [*row, escaped(environment["error"]), *[""] * (len(report["sides"]) - 1)]
    for side in report["sides"]:
        words = model.passing(report, [environment], side)
        failed = [
            f"`{probe['name']}` {state}"
            for probe in report["probes"]
            for state in [model.state_of(model.verdict_of(environment, side, probe["name"]))]
            if side != "without" and state in ("fails", "hangs")
        ]
        if failed:
            more = f", and {len(failed) - 5} more" if len(failed) > 5 else ""
            words += f": {', '.join(failed[:5])}{more}"
        row.append(words)
    return row


def _probes(report: Report) -> Iterator[str]:
    sides = "; ".join(map(model.side_name, report["sides"]))
    yield from ("", "## Each probe", "")
    yield f"In each cell: {sides}."
    differing = [model.differs(report, probe["name"]) for probe in report["probes"]]
    yield f"{model.symbols()}."
    if any(differing):
        yield "≠ marks a probe for which the environments differ."
    yield ""
    yield from _table(
        [
            *("wandb", "Python"),
            *(f"{number}{' ≠' * differ}" for number, differ in enumerate(differing, 1)),
        ],
        [
            [
                escaped(model.name_of(environment)),
                escaped(environment["python"]),
                *(
                    "" if environment["error"] else model.marks(report, environment, probe["name"])
                    for probe in report["probes"]
                ),
            ]
            for environment in report["environments"]
        ],
    )
    yield ""
    for number, probe in enumerate(report["probes"], 1):
        issues = ", ".join(f"[{issue}]({model.ISSUES}{issue})" for issue in probe["issues"])
        yield f"{number}. `{probe['name']}`: {escaped(probe['what'])}" + (
            f" ({issues})" if issues else ""
        )


def _notes(report: Report) -> List[str]:
    lines: List[str] = []
    for environment in report["environments"]:
        commit = model.commit_of(environment)
        notes = ([commit] if commit else []) + environment["notes"]
        if notes:
            name, python = model.name_of(environment), environment["python"]
            lines += ["", f"### {escaped(name)}, Python {escaped(python)}", ""]
            lines += [f"- {escaped(note)}" for note in notes]
    return ["", "## Notes", *lines] if lines else []


def _failures(report: Report) -> Iterator[str]:
    title = ""
    for environment, side, probe, verdict, _ in model.failures(report):
        if not title:
            title = "## What fails all the same"
            yield from ("", title)
        yield ""
        yield (
            f"### {escaped(model.name_of(environment))},"
            f" Python {escaped(environment['python'])},"
            f" `{probe['name']}`, {model.side_name(side)}"
        )
        yield from ("", escaped(probe["what"]), "")
        words = [
            model.one_line(verdict["reason"]),
            model.clean(verdict.get("trace") or "").strip("\n"),
        ]
        yield from _block("\n\n".join(filter(None, words)), "text")


def _block(block: str, kind: str) -> List[str]:
    # Longer than any fence that is in it.
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", block)), default=0))
    return [f"{fence}{kind}", block, fence]


def _table(header: List[str], rows: List[List[str]]) -> List[str]:
    rule = "|" + "---|" * len(header)
    lines = [f"| {' | '.join(cells)} |" for cells in [header, *rows]]
    return [lines[0], rule, *lines[1:]]


def escaped(text: Any) -> str:
    """Make one line of it, with no character that markup begins with."""
    # Within a word, GitHub takes an underscore as it is.
    special = r"[\\`*\[\]<>|~&#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"
    return re.sub(special, r"\\\g<0>", model.one_line(text))
