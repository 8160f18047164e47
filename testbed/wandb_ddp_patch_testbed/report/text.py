"""The matrix in lines of plain text, for the terminal and for where there is none."""

from __future__ import annotations

import textwrap
from typing import List, Optional

from . import model
from .model import Environment, Report

_ASCII = {ord(state.symbol): state.ascii for state in model.STATES.values()}


def matrix(
    report: Report, environments: List[Environment], width: Optional[int] = None
) -> List[str]:
    """Draw rows of the matrix, in so many columns of a terminal if that can be."""
    column = max(len(report["sides"]), len(str(len(report["probes"]))))
    labels = [model.name_of(environment) for environment in report["environments"]]
    first = max(map(len, labels), default=0)
    cells = len(report["probes"]) * (column + 1)
    if width is not None:
        first = min(first, max(width - cells, 8))
    numbers = range(1, len(report["probes"]) + 1)
    lines = [" " * first + "".join(f" {number:>{column}}" for number in numbers)]
    for environment in environments:
        label = model.name_of(environment)
        label = label if len(label) <= first else label[: first - 1] + "…"
        if environment["error"]:
            lines.append(f"{label:{first}} {model.one_line(environment['error'])}")
            continue
        marks = (model.marks(report, environment, probe["name"]) for probe in report["probes"])
        lines.append(f"{label:{first}}" + "".join(f" {mark:>{column}}" for mark in marks))
    return lines


def legend(report: Report) -> List[str]:
    """Return lines that explain the symbols, the order in a cell and the columns."""
    lines = [
        model.symbols(),
        f"in each cell: {'; '.join(map(model.side_name, report['sides']))}",
        "",
    ]
    names = [f"{number:>2} {probe['name']}" for number, probe in enumerate(report["probes"], 1)]
    width = max(map(len, names), default=0) + 2
    columns = max(1, 78 // width)
    # Down each column, as one reads a list.
    height = -(-len(names) // columns)
    for row in range(height):
        lines.append("".join(f"{name:{width}}" for name in names[row::height]).rstrip())
    return lines


def failure_lines(report: Report) -> List[str]:
    """Return a line for each probe that fails with the patch."""
    return [
        f"{model.name_of(failure.environment)}, {failure.probe['name']},"
        f" {model.side_name(failure.side)}:"
        f" {textwrap.shorten(model.clean(failure.verdict['reason']), 200)}"
        for failure in model.failures(report)
    ]


def text(report: Report, encoding: str = "utf-8") -> str:
    """Write the matrix as plain text, with its legend and what fails with the patch.

    Args:
        report: The report.
        encoding: That of the stream it is for. Where that has no such symbols,
            ASCII ones take their place.

    Returns:
        Lines, without colours, which end in a line break.
    """
    lines = [*matrix(report, report["environments"]), "", *legend(report), ""]
    for environment in report["environments"]:
        lines.extend(
            f"{model.name_of(environment)}: {model.one_line(note)}" for note in environment["notes"]
        )
    lines.extend(failure_lines(report))
    lines.extend(model.summary(report))
    plain = "\n".join(lines) + "\n"
    try:
        plain.encode(encoding)
    except UnicodeEncodeError:
        plain = plain.translate(_ASCII).replace("…", "~")
        plain = plain.encode(encoding, "backslashreplace").decode(encoding)
    return plain
