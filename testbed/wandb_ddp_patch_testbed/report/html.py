"""The report as one page of HTML; ``page.html.jinja`` beside this is what it looks like."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Dict, List

from . import model
from .model import Environment, Report


def html(report: Report) -> str:
    """Write the report as one page, which needs nothing but itself.

    Args:
        report: The report.

    Returns:
        The page's source.
    """
    import jinja2  # late: only a report with --report needs it

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    source = Path(__file__).with_name("page.html.jinja").read_text(encoding="utf-8")
    page: str = environment.from_string(source).render(_shown(report))
    return page


def _shown(report: Report) -> Dict[str, Any]:
    """Return everything that the template refers to."""
    return {
        "date": report["created"][:10],
        "when": model.when(report),
        "where": model.where(report),
        "size": model.size(report),
        "broken": model.broken(report),
        "sides": [model.side_name(side) for side in report["sides"]],
        "totals": [_total(report, side) for side in report["sides"]],
        "states": model.STATES,
        "command": model.one_line(report.get("command") or ""),
        "probes": [
            {**probe, "differs": model.differs(report, probe["name"])} for probe in report["probes"]
        ],
        "differing": sum(model.differs(report, probe["name"]) for probe in report["probes"]),
        "rows": [_row(report, environment) for environment in report["environments"]],
        "failures": [
            {
                "cell": failure.cell,
                "name": model.name_of(failure.environment),
                "probe": failure.probe["name"],
                "side": model.side_name(failure.side),
                "reason": model.one_line(failure.verdict["reason"]),
            }
            for failure in model.failures(report)
        ],
        "issues": model.ISSUES,
    }


def _total(report: Report, side: str) -> Dict[str, Any]:
    tally = model.tally_of(report, report["environments"], side)
    return {
        "side": model.side_name(side),
        "passes": tally["passes"],
        "judged": model.judged(tally),
        "hangs": tally["hangs"],
        "rest": model.besides(report, report["environments"], side),
    }


def _row(report: Report, environment: Environment) -> Dict[str, Any]:
    return {
        "name": model.name_of(environment),
        "python": environment["python"],
        "commit": model.commit_of(environment),
        "notes": [model.one_line(note) for note in environment["notes"]],
        "error": model.one_line(environment["error"] or ""),
        "cells": [
            {
                "probe": probe,
                "marks": _marks(report, environment, probe["name"]),
                "command": _command(report, environment, probe["name"]),
            }
            for probe in report["probes"]
        ],
    }


def _command(report: Report, environment: Environment, probe: str) -> str:
    """Return the command line that runs one cell again, or an empty string if there is none."""
    spec = environment.get("spec")
    words = ["wandb-ddp-patch", "testbed", spec, "--python", environment["python"], "--only", probe]
    if "export" in report["sides"]:
        words.append("--with-export")
    return model.one_line(" ".join(map(shlex.quote, words))) if spec else ""


def _marks(report: Report, environment: Environment, probe: str) -> List[Dict[str, Any]]:
    marks = []
    for side in report["sides"]:
        verdict = model.verdict_of(environment, side, probe)
        state = model.state_of(verdict)
        found = verdict or {}
        marks.append(
            {
                "side": model.side_name(side),
                "state": state,
                "symbol": model.STATES[state].symbol,
                "words": model.STATES[state].words,
                "reason": model.one_line(found.get("reason") or ""),
                "trace": model.clean(found.get("trace") or "").strip("\n"),
                "seconds": found.get("seconds"),
            }
        )
    return marks
