"""What a probe is: a function that raises where wandb has a fault, and its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Tuple


@dataclass(frozen=True)
class Probe:
    """One failure of the catalogue.

    Attributes:
        name: Its name there.
        function: Raises where wandb has the fault.
        what: What a user does, in a line.
        issues: Its upstream issues.
        first: Whether no other may have run before it in its process.
    """

    name: str
    function: Callable[[], None]
    what: str
    issues: Tuple[int, ...]
    first: bool


class CannotRun(Exception):
    """What a probe needs is not installed."""


PROBES: Dict[str, Probe] = {}


def probe(*issues: int, first: bool = False) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Enter a function into ``PROBES``, as the probe of its name.

    The first line of its docstring says what a user does.

    Args:
        issues: Numbers of wandb's issues that it is about.
        first: Whether no other probe may have run before it in its process.
    """

    def register(function: Callable[[], None]) -> Callable[[], None]:
        name = function.__name__.replace("_", "-")
        what = (function.__doc__ or "").splitlines()[0]
        PROBES[name] = Probe(name, function, what, issues, first)
        return function

    return register


def check(condition: Any, failure: str) -> None:
    """Raise AssertionError, with what is amiss, unless a condition holds."""
    if not condition:
        raise AssertionError(failure)
