"""The commands that this distribution adds to ``wandb-ddp-patch``: pyproject.toml lists them.

All that takes time is imported once a command runs: ``wandb-ddp-patch`` reads this file always.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wandb_ddp_patch.errors import CommandError

if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction[Any]


def add_testbed(commands: _Commands) -> None:
    """Add the command that tests wandbs."""
    testbed = commands.add_parser(
        "testbed",
        help="run every probe on other wandbs: releases, wheels, source trees",
        description="Runs every probe on each wandb that a SPEC stands for, without and with"
        " this package, in cached virtual environments. The exit status is 0 only if"
        " none fails with the patch, nor, of those that the exported diff can mend, with that.",
    )
    testbed.add_argument(
        "specs",
        nargs="+",
        metavar="SPEC",
        help="a release (0.31.0), latest, all (a release of each line), a line (0.12: its"
        ' newest), a range (">=0.21,<0.22"), a wheel, an sdist or a source tree;'
        " SPEC@3.9 names the Python for it",
    )
    _add_how(testbed)
    _add_trees(testbed)
    testbed.add_argument("--report", metavar="DIR", help="write Markdown, JSON and HTML there")
    testbed.add_argument(
        "--readme", metavar="FILE", help="put the table between this file's <!-- matrix --> lines"
    )
    testbed.add_argument(
        "--since",
        nargs="?",
        const="",
        metavar="RELEASE",
        help="say in three lines what SPEC changes since a release (default: the newest that is"
        " known here); the exit status is 0 only if nothing",
    )
    testbed.set_defaults(command=_testbed)


def add_add_line(commands: _Commands) -> None:
    """Add the command that enters a new release line into ``releases.json``."""
    line = commands.add_parser(
        "add-line",
        help="enter a release of a new line of wandb into the testbed's releases.json",
        description="Enters a release of a new line, with the pins of the line before it.",
    )
    line.add_argument("release", metavar="RELEASE", help="such as 0.32.0, or latest")
    line.set_defaults(command=_enter_line)


def _add_how(testbed: argparse.ArgumentParser) -> None:
    testbed.add_argument(
        "--python",
        action="append",
        metavar="VERSION",
        help="the Python to run on, such as 3.9; may be given several times (default: this one's)",
    )
    testbed.add_argument(
        "--jobs",
        type=positive_number,
        metavar="N",
        help="how many probes run at once (default: two for each core)",
    )
    testbed.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PROBE",
        help="run this probe alone; may be given several times",
    )
    testbed.add_argument(
        "--timeout",
        type=positive_number,
        default=60,
        metavar="S",
        help="seconds for a probe (60), and 4 times as many for a second try with the patch",
    )
    testbed.add_argument(
        "--keep", action="store_true", help="keep the environments of wheels, sdists and trees"
    )


def _add_trees(testbed: argparse.ArgumentParser) -> None:
    testbed.add_argument(
        "--with-export",
        action="store_true",
        help="also probe source trees with the exported diff and without the patch",
    )
    testbed.add_argument(
        "--run-tests",
        nargs="*",
        metavar="PATH",
        help="also run the trees' own tests from each side, and say what differs"
        " (default: tests/unit_tests)",
    )
    testbed.add_argument(
        "--maxfail",
        type=positive_number,
        default=100,
        metavar="N",
        help="end a run of them after N failures (100)",
    )


_TOPICS = "config, summary, preinit, run or torch"


def add_export_diff(commands: _Commands) -> None:
    """Add the command that prints the patches as a diff."""
    export = commands.add_parser(
        "export-diff",
        help="print the patches as a diff against a wandb source tree",
        description="Prints a unified diff, for git apply or patch -p1, with which the"
        " classes of a wandb source tree do by themselves what the patches do.",
    )
    export.add_argument("tree", metavar="TREE", help="a checkout, or an unpacked sdist")
    export.add_argument("--topic", action="append", default=[], help=f"{_TOPICS} (default: all)")
    export.set_defaults(command=_export_diff)


def add_export_pr(commands: _Commands) -> None:
    """Add the command that writes a pull request."""
    pull = commands.add_parser(
        "export-pr",
        help="write a pull request to wandb: a topic's diff, with tests, and its text",
        description="Writes change.diff and pull-request.md for one topic: source, tests in"
        " wandb's own suite, the line in its change log, and the text in its template.",
    )
    pull.add_argument("tree", metavar="TREE", help="a checkout, or an unpacked sdist")
    pull.add_argument("--topic", required=True, help=_TOPICS)
    pull.add_argument("--out", required=True, metavar="DIR", help="where to write them")
    pull.add_argument("--report", metavar="DIR", help="a report of the testbed, for its numbers")
    pull.set_defaults(command=_export_pr)


def positive_number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: not a whole number from 1 on")
    return int(text)


def _testbed(options: argparse.Namespace) -> int:
    from . import compare, matrix, suite

    _check_cache()
    pythons = options.python or ["%d.%d" % sys.version_info[:2]]
    how = {"only": options.only, "jobs": options.jobs, "timeout": options.timeout}
    if options.since is not None:
        _check_alone(options)
        return compare.run(options.specs, pythons, options.since, **how)
    tests = None
    if options.run_tests is not None:
        paths = tuple(options.run_tests) or suite.SuiteOptions.paths
        tests = suite.SuiteOptions(paths, options.maxfail, options.jobs or suite.SuiteOptions.jobs)
    return matrix.run(
        options.specs,
        pythons,
        **how,
        keep=options.keep,
        with_export=options.with_export,
        tests=tests,
        folder=Path(options.report) if options.report else None,
        readme=Path(options.readme) if options.readme else None,
    )


def _check_cache() -> None:
    from .paths import cache

    folder = cache()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise CommandError(
            f"the cache folder {folder} can't be written: {error.strerror};"
            " name another one in WANDB_DDP_PATCH_CACHE"
        ) from None


def _folder(name: str) -> Path:
    if not Path(name).is_dir():
        raise CommandError(f"{name}: there is no such folder")
    return Path(name).resolve()


def _check_alone(options: argparse.Namespace) -> None:
    for name in ("report", "readme", "keep", "with_export", "run_tests"):
        if getattr(options, name) not in (None, False):
            raise CommandError(f"--since does not go with --{name.replace('_', '-')}")


def _enter_line(options: argparse.Namespace) -> int:
    from . import releases, specs

    found = specs.targets(options.release)
    if len(found) != 1 or found[0].requirement != f"wandb=={found[0].label}":
        raise CommandError(f"{options.release}: not one release")
    release = found[0].release
    if not releases.add_line(release):
        raise CommandError(f"{release}: a release of its line is there already")
    print(f"{release} is entered; what is next: CONTRIBUTING.md, Add a release line")
    return 0


def _export_diff(options: argparse.Namespace) -> int:
    from . import export

    tree = _folder(options.tree)
    found = export.change(tree, options.topic)
    # As it is: on Windows, text would get other line ends.
    sys.stdout.buffer.write(export.as_diff(tree, found.files).encode("utf-8"))
    for note in found.notes:
        print(f"wandb-ddp-patch: {note}", file=sys.stderr)
    return 0


def _export_pr(options: argparse.Namespace) -> int:
    from . import export

    report = Path(options.report) if options.report else None
    tree = _folder(options.tree)
    print("\n".join(export.export(tree, options.topic, Path(options.out), report)))
    return 0
