"""``doctor``: what is installed and patched here, and whether it works."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import math
import os
import platform
import site
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Dict, List, Optional

import wandb_ddp_patch

from . import doctor_text, probes
from .doctor_text import Environment, Outcome, PatchState, ProbeRow
from .errors import CommandError

# Seconds after which a probe counts as hanging, without and with the patch. A probe takes one or
# two, and many more on a busy machine.
_TIMEOUT_SECONDS = {"without": 60 if sys.platform == "linux" else 30, "with": 60}
# Without the patch, several hang for ever where wandb does, and that is most of what the user
# waits for. Linux tells when their processes have done nothing for longer than wandb itself waits.
_IDLE_SECONDS = {"without": 12, "with": math.inf}


def main(as_json: bool) -> int:
    """Examine this environment and print what was found.

    Args:
        as_json: Whether to print JSON instead of tables.

    Returns:
        The exit status: 0 if some probe passes with the patch and none fails, else 1.

    Raises:
        CommandError: wandb is not installed here, or can't be imported.
    """
    facts = environment()
    if not as_json:
        print(doctor_text.environment(facts), flush=True)
    if facts["wandb_error"]:
        if as_json:
            print(json.dumps({**facts, "ok": False}, indent=2))
        raise CommandError(facts["wandb_error"])
    rows = _probe()
    passed = {row["with"]["passed"] for row in rows}
    ok = True in passed and False not in passed
    if as_json:
        print(json.dumps({**facts, "probes": rows, "ok": ok}, indent=2))
    else:
        print(doctor_text.probes(rows))
    return 0 if ok else 1


def status() -> int:
    """Print in one line whether scripts are patched here that don't import this package.

    Returns:
        The exit status: 0 if they are, and each patch fits, else 1.

    Raises:
        CommandError: wandb is not installed here, or can't be imported.
    """
    facts = environment(with_torch=False)
    if facts["wandb_error"]:
        raise CommandError(facts["wandb_error"])
    print(doctor_text.status(facts))
    skipped = any(patch["state"] == "skipped" for patch in facts["patches"])
    return 1 if skipped or facts["inactive"] else 0


def environment(with_torch: bool = True) -> Environment:
    """Return what is installed and patched here, by name; imports wandb for that.

    Args:
        with_torch: Whether torch is imported as well, which takes seconds. Where it is not, the
            patches of torch wait for it.
    """
    error = None
    try:
        importlib.import_module("wandb")
    except ModuleNotFoundError as problem:
        error = str(problem) if problem.name != "wandb" else "wandb is not installed here"
    except KeyboardInterrupt:
        raise
    except BaseException as problem:  # a broken wandb may raise anything, SystemExit included
        error = f"wandb can't be imported: {type(problem).__name__}: {problem}"
    if with_torch and _version("torch"):
        try:
            importlib.import_module("torch")
        except Exception as problem:
            print(f"torch can't be imported: {problem}", file=sys.stderr)
    return {
        "wandb_ddp_patch": wandb_ddp_patch.__version__,
        "enabled": os.environ.get("WANDB_DDP_PATCH") != "0",
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "wandb": _version("wandb"),
        "wandb_error": error,
        "torch": _version("torch"),
        "startup_files": _startup_files(),
        "imported_by": _imported_by(),
        "inactive": _inactive(),
        "patches": [
            PatchState(target=each.target, state=each.state, why=each.why, since=each.since)
            for each in wandb_ddp_patch.status()
        ],
    }


def _version(name: str) -> Optional[str]:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _startup_files() -> List[str]:
    folders = site.getsitepackages()
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    names = ("wandb_ddp_patch.pth", "wandb_ddp_patch_startup.py")
    paths = [os.path.join(folder, name) for folder in folders for name in names]
    return [path for path in paths if os.path.exists(path)]


def _imported_by() -> str:
    name, path = wandb_ddp_patch._imported_by
    command = "wandb-ddp-patch"
    # On Windows the command is an .exe file with a zip archive in it: to Python, a folder.
    names = os.path.basename(path), os.path.basename(os.path.dirname(path))
    by_command = name == "runpy" or any(each.startswith(command) for each in names)
    startup = sys.modules.get("wandb_ddp_patch_startup")
    if name == "wandb_ddp_patch_startup" or (by_command and hasattr(startup, "install")):
        return "start-up file"
    return "nobody" if by_command else f"script {path}"


def _inactive() -> Optional[str]:
    """Return why an unchanged script is not patched here, or None where it is."""
    if os.environ.get("WANDB_DDP_PATCH") == "0":
        return "not active: WANDB_DDP_PATCH=0"
    if _imported_by() != "nobody":
        return None
    why = "this Python has not run the" if _startup_files() else "there are no"
    return (
        f"not active: {why} start-up files. Only scripts that import wandb_ddp_patch and call"
        " wandb_ddp_patch.apply() are patched"
    )


def _probe() -> List[ProbeRow]:
    total = len(_TIMEOUT_SECONDS) * len(probes.PROBES)
    lock = threading.Lock()
    count = 0

    def progress(side: str, verdict: probes.Verdict) -> None:
        nonlocal count
        with lock:
            count += 1
            word = {True: "passes", False: "fails", None: "can't run here"}[verdict.passed]
            doctor_text.progress(f"{count} of {total}: {verdict.name}, {side} the patch: {word}")

    found = _run_probes(progress)
    doctor_text.progress("")
    return [
        {
            "name": name,
            "what": probe.what,
            "without": _outcome(found["without"][name]),
            "with": _outcome(found["with"][name]),
        }
        for name, probe in probes.PROBES.items()
    ]


def _outcome(verdict: probes.Verdict) -> Outcome:
    return {"passed": verdict.passed, "reason": verdict.reason}


def _run_probes(
    progress: Callable[[str, probes.Verdict], object],
) -> Dict[str, Dict[str, probes.Verdict]]:
    """Run all probes, without and with the patch at the same time.

    Those that hang with the patch are run a second time, alone, before that counts.

    Args:
        progress: Called with the side and each verdict that counts, from any thread.

    Returns:
        The verdicts by name, for each side.
    """

    def one_side(side: str) -> Dict[str, probes.Verdict]:
        return probes.run_all(
            probes.PROBES,
            patched=side == "with",
            timeout=_TIMEOUT_SECONDS[side],
            jobs=2 + (os.cpu_count() or 1) // 2,
            forked=True,
            idle=_IDLE_SECONDS[side],
            # Not those that are going to be run again: each counts once.
            done=lambda verdict: (side == "with" and verdict.hangs) or progress(side, verdict),
        )

    with ThreadPoolExecutor() as pool:
        try:
            found = dict(zip(_TIMEOUT_SECONDS, pool.map(one_side, _TIMEOUT_SECONDS)))
        except BaseException:
            probes.stop()
            raise
    found["with"] = probes.again(
        found["with"],
        patched=True,
        timeout=_TIMEOUT_SECONDS["with"],
        done=lambda verdict: progress("with", verdict),
    )
    return found
