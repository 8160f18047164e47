"""Runs every probe on every wandb, without and with the patch, and says what they say."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any, Dict, Optional, Sequence

from wandb_ddp_patch.errors import CommandError

from . import markdown_table, plan, report, suite
from .exit_status import exit_status
from .measure import Measurement


def run(
    wanted: Sequence[str],
    pythons: Sequence[str],
    *,
    only: Sequence[str] = (),
    jobs: Optional[int] = None,
    timeout: float = 60,
    keep: bool = False,
    with_export: bool = False,
    tests: Optional[suite.SuiteOptions] = None,
    folder: Optional[Path] = None,
    readme: Optional[Path] = None,
) -> int:
    """Run the testbed and print, and write, its report.

    Args:
        wanted: SPECs, see :func:`specs.targets`.
        pythons: Versions of interpreters; all targets run on each.
        only: Names of probes; by default all.
        jobs: How many probe processes run at once; by default two for each core.
        timeout: Seconds after which a probe counts as hanging.
        keep: Whether environments of trees and files stay in the cache, as those of releases do.
        with_export: Whether trees are also probed with the exported diff and the patch off.
        tests: Which of the trees' own tests are run from each side; this implies ``with_export``.
        folder: Where the report is written, as Markdown, JSON and HTML.
        readme: A Markdown file that gets the report's first table.

    Returns:
        0 if every probe passes with the patch, and those that can with the diff; else 1.

    Raises:
        CommandError: A SPEC or a name is invalid, or nothing could be run.
    """
    if readme:
        markdown_table.around(readme)  # a file without marks is reported before minutes are spent
    todo = plan.make(plan.probe_names(only), wanted, pythons, with_export or bool(tests))
    live = report.Live(todo.labels, todo.sides, todo.names)
    measured = Measurement(todo, live, timeout, folder)
    measured.data["command"] = _command(wanted, pythons, only, timeout, todo.sides, tests)
    return _end(measured.run(jobs, keep, tests), live.terminal, folder, readme)


def _command(
    wanted: Sequence[str],
    pythons: Sequence[str],
    only: Sequence[str],
    timeout: float,
    sides: Sequence[str],
    tests: Optional[suite.SuiteOptions],
) -> str:
    """Return the command line that reproduces the report."""
    words = ["wandb-ddp-patch", "testbed", *wanted]
    for option, values in (("--python", pythons), ("--only", only), ("--timeout", [timeout])):
        words += [word for value in values for word in (option, f"{value}")]
    if plan.EXPORT in sides:
        words.append("--with-export")
    if tests:
        words += ["--maxfail", f"{tests.maxfail}", "--run-tests", *tests.paths]
    return " ".join(map(shlex.quote, words))


def _end(data: Dict[str, Any], drawn: bool, folder: Optional[Path], readme: Optional[Path]) -> int:
    """Print the report, or what the drawn matrix lacks of it, write it, and judge it."""
    if all(entry["error"] for entry in data["environments"]):
        raise CommandError("there is no wandb here that can be tested")  # why, has been shown
    if drawn:
        print("\n".join([n for e in data["environments"] for n in e["notes"]]))
        print("\n".join(report.summary(data)))
    else:
        print(report.text(data, sys.stdout.encoding or "utf-8"))
    if folder:
        for path in report.write(data, folder):
            print(f"written: {path}")
    if readme:
        markdown_table.fill(readme, data)
    return exit_status(data)
