"""What a probe found, and the line by which its subprocess reports it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Iterable, Optional

TRACE_LINES = 12
_MARK = "wandb_ddp_patch verdict: "
_HANGS = "hangs: no end after "


@dataclass(frozen=True)
class Verdict:
    """What one probe found.

    Attributes:
        name: The probe's.
        passed: True, False, or None where it can't be run here.
        reason: Why, in a line.
        trace: The last lines of the traceback, or of the output.
        seconds: How long it took.
    """

    name: str
    passed: Optional[bool]
    reason: str
    trace: str = ""
    seconds: float = 0.0

    @property
    def hangs(self) -> bool:
        """Whether it hit its time limit."""
        return self.reason.startswith(_HANGS)

    def to_line(self) -> str:
        """Return the line that :func:`from_line` reads."""
        return _MARK + json.dumps(vars(self))


def from_line(line: str) -> Optional[Verdict]:
    """Return the verdict that is in a line of a subprocess's output, or None."""
    if not line.startswith(_MARK):
        return None
    try:
        return Verdict(**json.loads(line[len(_MARK) :]))
    except ValueError:  # a worker has printed in the middle of it
        return None


def hanging(seconds: float) -> str:
    """Return the reason of a probe that did not end within this time limit."""
    return f"{_HANGS}{seconds:g} s"


def idling(seconds: float) -> str:
    """Return the reason of a probe that was stopped because its processes did nothing."""
    return f"{_HANGS}{seconds:.0f} s, and none of its processes does anything"


def last_lines(lines: Iterable[str]) -> str:
    """Return the end of a traceback, or of an output."""
    return "\n".join(list(lines)[-TRACE_LINES:])[-4000:]


def last_line(text: str) -> str:
    """Return the last line that is not empty, or ``"no output"``."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
