"""``python -m wandb_ddp_patch.probes NAME ...``: run probes here, in this process.

With ``-`` for a name, the names are read from standard input, one a line.
"""

from __future__ import annotations

import sys
import time
import traceback
from typing import List, Optional

from .catalogue import PROBES
from .registry import CannotRun
from .verdict import Verdict, last_lines


def main(arguments: List[str]) -> int:
    """Run probes and print their verdicts.

    Args:
        arguments: Names of probes, or ``["-"]``.

    Returns:
        0 if none fails, 1 if one does, 2 for a name that no probe has.
    """
    if arguments != ["-"] and (not arguments or not PROBES.keys() >= set(arguments)):
        sys.stderr.write(f"usage: python -m wandb_ddp_patch.probes {'|'.join(PROBES)} ...\n")
        return 2
    failed = False
    for name in map(str.strip, sys.stdin) if arguments == ["-"] else arguments:
        verdict = _here(name)
        print("\n" + verdict.to_line(), flush=True)
        failed = failed or verdict.passed is False
    return int(failed)


def _here(name: str) -> Verdict:
    begun = time.monotonic()
    passed: Optional[bool] = True
    reason, trace = "as it should be", ""
    try:
        PROBES[name].function()
    except CannotRun as error:
        passed, reason = None, str(error)
    except BaseException as error:
        passed = False
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        trace = last_lines(traceback.format_exc().splitlines())
    return Verdict(name, passed, reason, trace, round(time.monotonic() - begun, 2))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
