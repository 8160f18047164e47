"""The registry of probes: functions that raise where wandb has a fault, by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Callable, Dict, Tuple

from .verdict import last_line


@dataclass(frozen=True)
class Probe:
    """One failure of the catalogue.

    Attributes:
        name: The key in ``PROBES``.
        function: Raises where wandb has the fault.
        what: What a user does and should get, in a line.
        issues: The numbers of wandb's issues.
        fails: A regular expression that matches the error where wandb has the fault.
        first: Whether it needs a process in which no other probe has run.
        waits: Whether it waits for long, or for processes that import torch.
    """

    name: str
    function: Callable[[], None]
    what: str
    issues: Tuple[int, ...]
    fails: str
    first: bool
    waits: bool

    def is_why(self, reason: str, trace: str) -> bool:
        """Return True if a failure is the fault that this probe is about, and not another.

        Args:
            reason: The failure's reason, in a line, which may have been cut.
            trace: The end of its traceback.
        """
        return re.search(self.fails, f"{reason}\n{last_line(trace)}") is not None


class CannotRun(Exception):
    """A probe can't run here, since something that it needs is not there; the message names it."""


PROBES: Dict[str, Probe] = {}


def probe(
    *issues: int, fails: str, first: bool = False, waits: bool = False
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a function in ``PROBES``, by its name with hyphens.

    The first line of its docstring says what a user does and should get.

    Args:
        issues: The numbers of wandb's issues that it is about.
        fails: A regular expression that matches the error where wandb has the fault. A
            probe that fails with another error proves nothing.
        first: Whether it needs a process in which no other probe has run.
        waits: Whether it waits for long, or for processes that import torch: it is begun
            before others.
    """

    def register(function: Callable[[], None]) -> Callable[[], None]:
        name = function.__name__.replace("_", "-")
        what = (function.__doc__ or "").splitlines()[0]
        PROBES[name] = Probe(name, function, what, issues, fails, first, waits)
        return function

    return register


def check(condition: Any, failure: str) -> None:
    """Raise AssertionError, with a message that says what is wrong, unless a condition holds."""
    if not condition:
        raise AssertionError(failure)
