"""What a probe is: a function that raises where wandb has a fault, and its name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, Tuple

from .verdict import last_line


@dataclass(frozen=True)
class Probe:
    """One failure of the catalogue.

    Attributes:
        name: Its name there.
        function: Raises where wandb has the fault.
        what: What a user does, in a line.
        issues: Its upstream issues.
        fails: What the error says where wandb has the fault: a regular expression.
        first: Whether no other may have run before it in its process.
    """

    name: str
    function: Callable[[], None]
    what: str
    issues: Tuple[int, ...]
    fails: str
    first: bool

    def is_why(self, reason: str, trace: str) -> bool:
        """Return True if that is the fault that it is about, and not some other.

        Args:
            reason: A failure's, in a line, which is cut where it is long.
            trace: The end of its traceback.
        """
        return re.search(self.fails, f"{reason}\n{last_line(trace)}") is not None


class CannotRun(Exception):
    """What a probe needs is not installed."""


PROBES: Dict[str, Probe] = {}


def probe(
    *issues: int, fails: str, first: bool = False
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Enter a function into ``PROBES``, as the probe of its name.

    The first line of its docstring says what a user does.

    Args:
        issues: Numbers of wandb's issues that it is about.
        fails: What the error says where wandb has the fault: a regular expression.
            Whatever fails otherwise proves nothing.
        first: Whether no other probe may have run before it in its process.
    """

    def register(function: Callable[[], None]) -> Callable[[], None]:
        name = function.__name__.replace("_", "-")
        what = (function.__doc__ or "").splitlines()[0]
        PROBES[name] = Probe(name, function, what, issues, fails, first)
        return function

    return register


def check(condition: Any, failure: str) -> None:
    """Raise AssertionError, with what is amiss, unless a condition holds."""
    if not condition:
        raise AssertionError(failure)
