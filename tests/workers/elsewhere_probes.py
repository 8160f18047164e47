"""A script for test_probes_elsewhere.py: runs probes whose workers are on another machine.

Usage: elsewhere_probes.py NAME... A name is a probe's, or one of elsewhere_uses.py. Prints a JSON
object: what was wrong, by name; None where nothing was. The other machine runs elsewhere_jobs.py.
"""

import json
import sys
import types

import elsewhere_jobs
import elsewhere_uses

from wandb_ddp_patch.probes import PROBES, multiprocess
from wandb_ddp_patch.probes.catalogue import run_rows


def main(names):
    waiting = types.SimpleNamespace(get_context=lambda method: elsewhere_jobs.Context())
    run_rows.multiprocessing = waiting
    found = {}
    for name in names:
        found[name] = None
        try:
            if name in PROBES:
                multiprocess._start = elsewhere_jobs.start
                PROBES[name].function()
            else:
                elsewhere_uses.do(name)
        except BaseException as error:
            found[name] = f"{type(error).__name__}: {error}"
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
