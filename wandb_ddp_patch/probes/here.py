"""Runs a probe in this process."""

from __future__ import annotations

import time
import traceback
from typing import Optional

from .catalogue import PROBES
from .registry import CannotRun
from .verdict import Verdict, last_lines


def run_here(name: str) -> Verdict:
    """Run a probe in this process and return its verdict, whatever it raises."""
    begun = time.monotonic()
    passed: Optional[bool] = True
    reason, trace = "as it should be", ""
    try:
        PROBES[name].function()
    except CannotRun as error:
        passed, reason = None, str(error)
    except BaseException as error:  # also SystemExit: what a probe raises is its verdict
        passed = False
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        trace = last_lines(traceback.format_exc().splitlines())
    return Verdict(name, passed, reason, trace, round(time.monotonic() - begun, 2))
