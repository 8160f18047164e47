"""What people see of a testbed: the matrix in the terminal, Markdown, JSON and a page.

All of it is made from one dict, the report; ``docs/report-schema.md`` says what is
in it. What was not measured, because someone has interrupted it, is left out of
the dict, and is an empty cell here.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import re
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any, Counter, Dict, Iterator, List, NamedTuple, Optional

Report = Dict[str, Any]
Environment = Dict[str, Any]

_SIDES = {
    "without": "without the shim",
    "with": "with the shim",
    "export": "with the exported diff, the shim off",
}


class _State(NamedTuple):
    symbol: str
    words: str
    ascii: str
    colour: str  # as rich calls it


# What a cell can be.
_STATES = {
    "passes": _State("\N{CHECK MARK}", "passes", "+", "cyan"),
    "fails": _State("\N{BALLOT X}", "fails", "x", "bold red"),
    "hangs": _State("H", "hangs", "H", "bold magenta"),
    "skipped": _State("\N{EN DASH}", "can't be run here", "-", "yellow"),
    "missing": _State("\N{MIDDLE DOT}", "no verdict", ".", "dim"),
}
_COLOURS = {state.symbol: state.colour for state in _STATES.values()}
_ASCII = {ord(state.symbol): state.ascii for state in _STATES.values()}
_ISSUES = "https://github.com/wandb/wandb/issues/"
# Colours and the like, which programs write into their tracebacks.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


# --- what a report says -------------------------------------------------------


def _clean(text: Any) -> str:
    return _ESCAPES.sub("", str(text))


def _line(text: Any) -> str:
    return " ".join(_clean(text).split())


def _side(side: str) -> str:
    return _SIDES.get(side, side)


def _name(environment: Environment) -> str:
    label, release = _line(environment["label"]), environment.get("release")
    return label if not release or release in label else f"{label} ({_line(release)})"


def _verdict(environment: Environment, side: str, probe: str) -> Optional[Dict[str, Any]]:
    verdict: Optional[Dict[str, Any]] = environment["verdicts"].get(side, {}).get(probe)
    return verdict


def _state(verdict: Optional[Dict[str, Any]]) -> str:
    if verdict is None:
        return "missing"
    if verdict["passed"] is None:
        return "skipped"
    if verdict["passed"]:
        return "passes"
    return "hangs" if verdict["reason"].startswith("hangs") else "fails"


def _marks(report: Report, environment: Environment, probe: str) -> str:
    states = (_state(_verdict(environment, side, probe)) for side in report["sides"])
    return "".join(_STATES[state].symbol for state in states)


def _tally(report: Report, environments: List[Environment], side: str) -> Counter[str]:
    """Count the states of one side; an environment that can't be run has none."""
    return collections.Counter(
        _state(_verdict(environment, side, probe["name"]))
        for environment in environments
        if not environment["error"]
        for probe in report["probes"]
    )


def _judged(tally: Counter[str]) -> int:
    return tally["passes"] + tally["fails"] + tally["hangs"]


def _count(tally: Counter[str], noun: str = "") -> str:
    """Say how many pass of those that came to an end, and how many did not."""
    rest = _rest(tally)
    return f"{tally['passes']} of {_judged(tally)}{noun}" + (f" ({rest})" if rest else "")


def _rest(tally: Counter[str]) -> str:
    words = ((tally["skipped"], "can't be run"), (tally["missing"], "without a verdict"))
    return ", ".join(f"{count} {word}" for count, word in words if count)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _size(report: Report) -> str:
    environments, probes = len(report["environments"]), len(report["probes"])
    return f"{_plural(environments, 'environment')} and {_plural(probes, 'probe')}"


def _broken(report: Report) -> List[str]:
    count = sum(bool(environment["error"]) for environment in report["environments"])
    return [f"{_plural(count, 'environment')} could not be run."] if count else []


def summary(report: Report) -> List[str]:
    tallies = [(side, _tally(report, report["environments"], side)) for side in report["sides"]]
    counts = [f"{_count(tally, ' cells')} pass {_side(side)}" for side, tally in tallies]
    return [f"{_size(report)}: {'; '.join(counts)}.", *_broken(report)]


class _Failure(NamedTuple):
    environment: Environment
    side: str
    probe: Dict[str, Any]
    verdict: Dict[str, Any]
    cell: str  # its place in the matrix


def _failures(report: Report) -> Iterator[_Failure]:
    """Find what should pass and does not: without the shim, failures are the point."""
    for row, environment in enumerate(report["environments"], 1):
        for side in report["sides"]:
            for column, probe in enumerate(report["probes"], 1):
                verdict = _verdict(environment, side, probe["name"])
                if side != "without" and verdict and verdict["passed"] is False:
                    cell = f"cell-{row}-{column}"
                    yield _Failure(environment, side, probe, verdict, cell)


def _when(report: Report) -> str:
    return f"{report['created'][:10]} {report['created'][11:16]} UTC"


def _where(report: Report) -> str:
    return (
        f"wandb_ddp_patch {_line(report['wandb_ddp_patch'])}, {_line(report['system'])},"
        f" {_plural(report['cores'], 'core')}"
    )


# --- in the terminal ----------------------------------------------------------


class Live:
    """The matrix while it is measured: a context manager, used from any thread.

    In a terminal it redraws the matrix and a progress bar, and leaves the whole
    matrix, its legend and what fails with the shim there at its end. Elsewhere it
    prints a line for each environment that is finished, and its user prints
    :func:`text` at the end.

    Attributes:
        terminal: Whether standard output is a terminal, which can be redrawn.
    """

    def __init__(self, labels: List[str], sides: List[str], probes: List[str]) -> None:
        """Begin with nothing measured.

        Args:
            labels: The environments, each another one.
            sides: Of "without", "with", "export", those that are measured.
            probes: The probes' names.
        """
        self.terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._environments: Dict[str, Environment] = {
            label: {"label": label, "error": None, "verdicts": {side: {} for side in sides}}
            for label in labels
        }
        self._report: Report = {
            "sides": sides,
            "probes": [{"name": name} for name in probes],
            "environments": list(self._environments.values()),
        }
        self._lock = threading.Lock()
        self._ended = False
        self._console: Any = None
        self._live: Any = None
        self._progress: Any = None

    def __enter__(self) -> Live:
        """Start to draw.

        Raises:
            ImportError: This is a terminal, and rich is not installed.
        """
        if self.terminal:
            try:
                import rich.console
                import rich.live
                import rich.progress
            except ImportError as error:
                raise _missing("rich") from error
            self._progress = rich.progress.Progress(
                rich.progress.BarColumn(),
                rich.progress.MofNCompleteColumn(),
                rich.progress.TimeElapsedColumn(),
            )
            self._progress.add_task("", total=self._size() * len(self._environments))
            self._console = rich.console.Console(force_terminal=True, highlight=False)
            self._live = rich.live.Live(
                get_renderable=self._frame,
                console=self._console,
                refresh_per_second=8,
                vertical_overflow="crop",
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        if self._live is not None:
            self._live.stop()

    def verdict(
        self, label: str, side: str, name: str, passed: Optional[bool], reason: str
    ) -> None:
        """Show what one probe found.

        Args:
            label: The environment.
            side: The side.
            name: The probe.
            passed: True, False, or None where it can't be run there.
            reason: Why, in a line.

        Raises:
            KeyError: There is no such environment or side.
        """
        with self._lock:
            environment = self._environments[label]
            before = self._done(environment)
            environment["verdicts"][side][name] = {"passed": passed, "reason": reason}
            self._finish(environment, before)

    def error(self, label: str, line: str) -> None:
        """Show that an environment can't be measured.

        Args:
            label: The environment.
            line: Why, in a line.

        Raises:
            KeyError: There is no such environment.
        """
        with self._lock:
            environment = self._environments[label]
            before = self._done(environment)
            environment["error"] = line
            self._finish(environment, before)

    def _size(self) -> int:
        return len(self._report["sides"]) * len(self._report["probes"])

    def _done(self, environment: Environment) -> int:
        if environment["error"]:
            return self._size()
        return sum(map(len, environment["verdicts"].values()))

    def _finish(self, environment: Environment, before: int) -> None:
        if self.terminal or not before < self._size() <= self._done(environment):
            return
        words = _line(environment["error"] or "") or ", ".join(
            f"{_count(_tally(self._report, [environment], side))} {_side(side)}"
            for side in self._report["sides"]
        )
        print(f"{_line(environment['label'])}: {words}", flush=True)

    def _frame(self) -> Any:
        import rich.console

        with self._lock:
            width, height = self._console.size
            done = sum(map(self._done, self._environments.values()))
            self._progress.update(0, completed=done)
            shown = list(self._environments.values())
            # The header, the bar, what is left out, and the line of the cursor.
            room = max(1, height - 4)
            rest = 0
            if not self._ended and len(shown) > room:
                shown = self._busiest(room)
                rest = len(self._environments) - len(shown)
            parts = [self._coloured(line) for line in _matrix(self._report, shown, width)]
            if rest:
                parts.append(self._coloured(f"and {rest} more"))
            parts.append(self._progress.get_renderable())
            if self._ended:
                parts.append(self._coloured("\n" + "\n".join(_legend(self._report))))
                lines = _failure_lines(self._report)
                if lines:
                    parts.append(rich.console.Group("", *map(self._plain, lines)))
            return rich.console.Group(*parts)

    def _busiest(self, room: int) -> List[Environment]:
        """Choose what a small terminal shows: what is running, then what is next."""

        def rank(environment: Environment) -> int:
            done = self._done(environment)
            return 2 if done >= self._size() else 0 if done else 1

        shown = sorted(self._environments.values(), key=rank)[:room]
        return [environment for environment in self._environments.values() if environment in shown]

    @staticmethod
    def _coloured(line: str) -> Any:
        import rich.text

        text = rich.text.Text(line, no_wrap=True, overflow="ellipsis")
        # Symbols stand together, alone; an H that begins a word does not.
        for match in re.finditer(rf"(?<!\S)[{''.join(_COLOURS)}]+(?!\S)", line):
            for at in range(match.start(), match.end()):
                text.stylize(_COLOURS[line[at]], at, at + 1)
        return text

    @staticmethod
    def _plain(line: str) -> Any:
        import rich.text

        return rich.text.Text(line)


def _matrix(
    report: Report, environments: List[Environment], width: Optional[int] = None
) -> List[str]:
    """Draw rows of the matrix, in so many columns of a terminal if that can be."""
    column = max(len(report["sides"]), len(str(len(report["probes"]))))
    labels = [_name(environment) for environment in report["environments"]]
    first = max(map(len, labels), default=0)
    cells = len(report["probes"]) * (column + 1)
    if width is not None:
        first = min(first, max(width - cells, 8))
    numbers = range(1, len(report["probes"]) + 1)
    lines = [" " * first + "".join(f" {number:>{column}}" for number in numbers)]
    for environment in environments:
        label = _name(environment)
        label = label if len(label) <= first else label[: first - 1] + "…"
        if environment["error"]:
            lines.append(f"{label:{first}} {_line(environment['error'])}")
            continue
        marks = (_marks(report, environment, probe["name"]) for probe in report["probes"])
        lines.append(f"{label:{first}}" + "".join(f" {mark:>{column}}" for mark in marks))
    return lines


def _symbols() -> str:
    return ", ".join(f"{state.symbol} {state.words}" for state in _STATES.values())


def _legend(report: Report) -> List[str]:
    lines = [
        _symbols(),
        f"in each cell: {'; '.join(map(_side, report['sides']))}",
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


def _failure_lines(report: Report) -> List[str]:
    return [
        f"{_name(failure.environment)}, {failure.probe['name']}, {_side(failure.side)}:"
        f" {textwrap.shorten(_clean(failure.verdict['reason']), 200)}"
        for failure in _failures(report)
    ]


def text(report: Report, encoding: str = "utf-8") -> str:
    """Write the matrix as plain text, with its legend and what fails with the shim.

    Args:
        report: The report.
        encoding: That of the stream it is for. Where that has no such symbols,
            ASCII ones take their place.

    Returns:
        Lines, without colours, which end in a line break.
    """
    lines = [*_matrix(report, report["environments"]), "", *_legend(report), ""]
    for environment in report["environments"]:
        lines.extend(f"{_name(environment)}: {_line(note)}" for note in environment["notes"])
    lines.extend(_failure_lines(report))
    lines.extend(summary(report))
    plain = "\n".join(lines) + "\n"
    try:
        plain.encode(encoding)
    except UnicodeEncodeError:
        plain = plain.translate(_ASCII).replace("…", "~")
        plain = plain.encode(encoding, "backslashreplace").decode(encoding)
    return plain


# --- Markdown -----------------------------------------------------------------


def markdown(report: Report, details: bool = True) -> str:
    """Write the report as Markdown, as GitHub shows it.

    Args:
        report: The report.
        details: Whether to show each probe, and what fails with the shim; else the
            summary and a table of the environments, with no title, for a README.

    Returns:
        Lines, which end in a line break.
    """
    lines = [
        f"On {report['created'][:10]}, {_escaped(_where(report))}. {' '.join(summary(report))}",
        "",
        *_table(
            ["wandb", "Python", *map(_side, report["sides"])],
            [_counts(report, environment) for environment in report["environments"]],
        ),
    ]
    if details:
        lines = [f"# wandb without and with the shim, {report['created'][:10]}", "", *lines]
        lines.extend(_markdown_probes(report))
        lines.extend(_markdown_notes(report))
        lines.extend(_markdown_failures(report))
    return "\n".join(lines) + "\n"


def _counts(report: Report, environment: Environment) -> List[str]:
    row = [_escaped(_name(environment)), _escaped(environment["python"])]
    if environment["error"]:
        # Tables have no cells that span columns here: all columns but one are empty.
        return [*row, _escaped(environment["error"]), *[""] * (len(report["sides"]) - 1)]
    for side in report["sides"]:
        words = _count(_tally(report, [environment], side))
        failed = [
            f"`{probe['name']}` {state}"
            for probe in report["probes"]
            for state in [_state(_verdict(environment, side, probe["name"]))]
            if side != "without" and state in ("fails", "hangs")
        ]
        if failed:
            more = f", and {len(failed) - 5} more" if len(failed) > 5 else ""
            words += f": {', '.join(failed[:5])}{more}"
        row.append(words)
    return row


def _markdown_probes(report: Report) -> Iterator[str]:
    sides = "; ".join(map(_side, report["sides"]))
    yield from ("", "## Each probe", "")
    yield f"In each cell: {sides}."
    yield f"{_symbols()}."
    yield ""
    yield from _table(
        ["wandb", "Python", *map(str, range(1, len(report["probes"]) + 1))],
        [
            [
                _escaped(_name(environment)),
                _escaped(environment["python"]),
                *(
                    "" if environment["error"] else _marks(report, environment, probe["name"])
                    for probe in report["probes"]
                ),
            ]
            for environment in report["environments"]
        ],
    )
    yield ""
    for number, probe in enumerate(report["probes"], 1):
        issues = ", ".join(f"[{issue}]({_ISSUES}{issue})" for issue in probe["issues"])
        yield f"{number}. `{probe['name']}`: {_escaped(probe['what'])}" + (
            f" ({issues})" if issues else ""
        )


def _markdown_notes(report: Report) -> List[str]:
    lines = [
        f"- {_escaped(_name(environment))}: {_escaped(note)}"
        for environment in report["environments"]
        for note in environment["notes"]
    ]
    return ["", "## Notes", "", *lines] if lines else []


def _markdown_failures(report: Report) -> Iterator[str]:
    title = ""
    for environment, side, probe, verdict, _ in _failures(report):
        if not title:
            title = "## What fails all the same"
            yield from ("", title)
        yield ""
        yield (
            f"### {_escaped(_name(environment))}, Python {_escaped(environment['python'])},"
            f" `{probe['name']}`, {_side(side)}"
        )
        yield from ("", _escaped(probe["what"]), "")
        words = [_line(verdict["reason"]), _clean(verdict.get("trace") or "").strip("\n")]
        block = "\n\n".join(filter(None, words))
        # Longer than any fence that is in it.
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", block)), default=0))
        yield from (f"{fence}text", block, fence)


def _table(header: List[str], rows: List[List[str]]) -> List[str]:
    rule = "|" + "---|" * len(header)
    lines = [f"| {' | '.join(cells)} |" for cells in [header, *rows]]
    return [lines[0], rule, *lines[1:]]


def _escaped(text: Any) -> str:
    # Within a word, GitHub takes an underscore as it is.
    special = r"[\\`*\[\]<>|~&#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"
    return re.sub(special, r"\\\g<0>", _line(text))


# --- the page -----------------------------------------------------------------


def html(report: Report) -> str:
    """Write the report as one page, which needs nothing but itself.

    Args:
        report: The report.

    Returns:
        The page's source.

    Raises:
        ImportError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise _missing("jinja2") from error
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    source = Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    page: str = environment.from_string(source).render(
        date=report["created"][:10],
        when=_when(report),
        where=_where(report),
        size=_size(report),
        broken=_broken(report),
        sides=[_side(side) for side in report["sides"]],
        totals=[_total(report, side) for side in report["sides"]],
        states=_STATES,
        probes=report["probes"],
        rows=[_row(report, environment) for environment in report["environments"]],
        failures=[
            {
                "cell": failure.cell,
                "name": _name(failure.environment),
                "probe": failure.probe["name"],
                "side": _side(failure.side),
                "reason": _line(failure.verdict["reason"]),
            }
            for failure in _failures(report)
        ],
        issues=_ISSUES,
    )
    return page


def _total(report: Report, side: str) -> Dict[str, Any]:
    tally = _tally(report, report["environments"], side)
    return {
        "side": _side(side),
        "passes": tally["passes"],
        "judged": _judged(tally),
        "hangs": tally["hangs"],
        "rest": _rest(tally),
    }


def _row(report: Report, environment: Environment) -> Dict[str, Any]:
    return {
        "name": _name(environment),
        "python": environment["python"],
        "notes": [_line(note) for note in environment["notes"]],
        "error": _line(environment["error"] or ""),
        "cells": [
            {"probe": probe, "marks": _html_marks(report, environment, probe["name"])}
            for probe in report["probes"]
        ],
    }


def _html_marks(report: Report, environment: Environment, probe: str) -> List[Dict[str, Any]]:
    marks = []
    for side in report["sides"]:
        verdict = _verdict(environment, side, probe)
        state = _state(verdict)
        found = verdict or {}
        marks.append(
            {
                "side": _side(side),
                "state": state,
                "symbol": _STATES[state].symbol,
                "words": _STATES[state].words,
                "reason": _line(found.get("reason") or ""),
                "trace": _clean(found.get("trace") or "").strip("\n"),
                "seconds": found.get("seconds"),
            }
        )
    return marks


def _missing(name: str) -> ImportError:
    return ImportError(
        f"the report needs {name}: pip install '.[testbed]' in this package's source folder",
        name=name,
    )


# --- files --------------------------------------------------------------------


def write(report: Report, folder: os.PathLike[str]) -> List[Path]:
    """Write ``report.md``, ``report.json`` and ``index.html``.

    A reader finds either the old file or the new one, never half of one.

    Args:
        report: The report. Other threads may go on adding verdicts to it.
        folder: Where to; it is made if need be.

    Returns:
        The files' paths.

    Raises:
        ImportError: jinja2 is not installed. Nothing is written then.
        OSError: They can't be written.
    """
    report = _snapshot(report)
    files = [
        ("report.md", markdown(report)),
        ("report.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n"),
        ("index.html", html(report)),
    ]
    Path(folder).mkdir(parents=True, exist_ok=True)
    return [_replace(Path(folder, name), content) for name, content in files]


def _snapshot(report: Report) -> Report:
    """Copy what other threads add to: to copy a dict is one step, to go through it is not."""
    environments = [
        {
            **environment,
            "verdicts": {
                side: dict(verdicts) for side, verdicts in dict(environment["verdicts"]).items()
            },
        }
        for environment in report["environments"]
    ]
    return {**report, "environments": environments}


def _replace(path: Path, content: str) -> Path:
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        # Half a surrogate pair, which a traceback may hold, has no UTF-8; as \udc80
        # it is itself again in JSON.
        beside.write_bytes(content.encode("utf-8", "backslashreplace"))
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    return path
