"""Runs a script without the patch and with it, and keeps what came out for the tables.

Results lie in build/carriers, a file for each test, with the versions of what was used.
tables.py makes docs/carriers.md of them.
"""

import collections
import contextlib
import datetime
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from conftest import ROOT, clean_env
from limits import HANG_SECONDS

from wandb_ddp_patch import runfile

HERE = Path(__file__).parent
RESULTS = ROOT / "build" / "carriers"
# Without the patch many a worker hangs, and nobody waits for that as long as for a fault.
SECONDS_WITHOUT = 150
WITHOUT, WITH = "0", "1"


class Ended:
    """How a script has ended: its status, None where it hung, and what it has said."""

    def __init__(self, code, output):
        self.code, self.output = code, output


def run(folder, arm, script, *arguments, seconds=None, **env):
    """Run a script of this folder in an empty folder, and end all that it leaves."""
    folder.mkdir()
    path = os.pathsep.join(map(str, (HERE, ROOT / "tests" / "no_startup", ROOT)))
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(HERE / script), *arguments],
            cwd=folder,
            env=clean_env(
                PYTHONPATH=path,
                WANDB_API_KEY="0123456789" * 4,
                WANDB_DDP_PATCH=arm,
                CUDA_VISIBLE_DEVICES="",
                **env,
            ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(seconds or (SECONDS_WITHOUT if arm == WITHOUT else HANG_SECONDS))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return Ended(code, (folder / "log").read_text("utf-8", "replace"))


def rows(folder):
    """Count the rows in all runs below a folder, by the part of each key before a slash."""
    counts = collections.Counter()
    for file in runfile.find(str(folder)):
        with contextlib.suppress(runfile.BrokenFile):
            for row in runfile.history(file):
                counts.update({key.partition("/")[0] for key in row})
    return counts


def judge(folder, ended, expected):
    """Say in few words what became of a script: "yes", or what is wrong."""
    if ended.code != 0:
        found = re.findall(r"^(?:[\w.]+\.)?(\w*Error)(?::|$)", ended.output, re.M)
        what = found[0] if found else "fails"
        return what if ended.code is not None else f"{what}, then hangs" if found else "hangs"
    counts = rows(folder)
    for key, wanted in expected.items():
        if counts[key] < wanted:
            return f"{counts[key]} of {wanted} rows"
    return "yes"


def keep(test, packages, **found):
    """Keep what a test has found, for the tables."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    versions = {name: importlib.metadata.version(name) for name in ("wandb", "torch", *packages)}
    result = {
        **found,
        "versions": versions,
        "python": sys.version.split()[0],
        "date": str(datetime.date.today()),
    }
    file = RESULTS / (re.sub(r"\W+", "-", test) + ".json")
    file.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
