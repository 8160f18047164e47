"""``python -m wandb_ddp_patch.probes NAME ...``: run probes and print their verdicts.

There is one line for each: whether it passes, and why not. With ``--json`` they run in this
process, and the lines are for interpreter.py; the name ``-`` reads names from standard input,
one a line. With ``--forks FOLDER``, they run in forks: see forks.py.
"""

from __future__ import annotations

import os
import sys
from typing import List

from . import forks, runner
from .catalogue import PROBES
from .here import run_here
from .verdict import Verdict


def main(arguments: List[str]) -> int:
    """Run probes and print their verdicts.

    Args:
        arguments: Names of probes, or ``["-"]``; before them, ``--json``. Or
            ``["--forks", FOLDER]``.

    Returns:
        0 if none fails, 1 if one does, 2 for a name that no probe has.
    """
    if arguments[:1] == ["--forks"]:
        forks.serve(*arguments[1:])
        return 0
    as_json = arguments[:1] == ["--json"]
    names = arguments[as_json:]
    if names != ["-"] and (not names or not PROBES.keys() >= set(names)):
        usage = f"python -m wandb_ddp_patch.probes [--json] {'|'.join(PROBES)} ..."
        sys.stderr.write(f"usage: {usage}\n")
        return 2
    failed = False
    for name in map(str.strip, sys.stdin) if names == ["-"] else names:
        verdict = run_here(name) if as_json else _run_in_subprocess(name)
        print("\n" + verdict.to_line() if as_json else _line(verdict), flush=True)
        failed = failed or verdict.passed is False
    return int(failed)


def _run_in_subprocess(name: str) -> Verdict:
    # There, what a probe's workers print as they fail, perhaps thousands of lines, is read and
    # cut; here it would bury the verdict.
    return runner.run(name, patched=os.environ.get("WANDB_DDP_PATCH") != "0")


def _line(verdict: Verdict) -> str:
    word = {True: "passes", False: "FAILS", None: "can't be run here"}[verdict.passed]
    return f"{verdict.name}: {word} ({verdict.seconds:.1f} s): {verdict.reason}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
