"""The matrix in the terminal, while it is measured."""

from __future__ import annotations

import os
import re
import sys
import threading
from typing import Any, Dict, List

from . import model
from .model import Environment, Report
from .text import failure_lines, legend, matrix

_COLOURS = {state.symbol: state.colour for state in model.STATES.values()}


class Live:
    """The matrix while it is measured: a context manager, used from any thread.

    In a terminal it redraws the matrix and a progress bar, and leaves the whole
    matrix, its legend and what fails with the patch there at its end. Elsewhere it
    prints a line for each environment that is finished, and its user prints
    :func:`text` at the end.

    Attributes:
        terminal: Whether standard output is a terminal, which can be redrawn.
    """

    def __init__(self, labels: List[str], sides: List[str], probes: List[str]) -> None:
        """Begin with nothing measured.

        Args:
            labels: The environments, without duplicates.
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
        """Start to draw."""
        if self.terminal:
            # late: where the output is no terminal, rich is not needed
            import rich.console
            import rich.live
            import rich.progress

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

    def verdict(self, label: str, side: str, name: str, verdict: Dict[str, Any]) -> None:
        """Show what one probe found.

        Args:
            label: The environment.
            side: The side.
            name: The probe.
            verdict: That, as it is in the report.

        Raises:
            KeyError: There is no such environment or side.
        """
        with self._lock:
            environment = self._environments[label]
            before = self._done(environment)
            environment["verdicts"][side][name] = verdict
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
        words = model.one_line(environment["error"] or "") or ", ".join(
            f"{model.passing(self._report, [environment], side)} {model.side_name(side)}"
            for side in self._report["sides"]
        )
        print(f"{model.one_line(environment['label'])}: {words}", flush=True)

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
            parts = [self._coloured(line) for line in matrix(self._report, shown, width)]
            if rest:
                parts.append(self._coloured(f"and {rest} more"))
            parts.append(self._progress.get_renderable())
            if self._ended:
                parts.append(self._coloured("\n" + "\n".join(legend(self._report))))
                lines = failure_lines(self._report)
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
