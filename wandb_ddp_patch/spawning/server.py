"""The forkserver of spawn(): started early, and asked whether it is of use."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import site
import sys
from multiprocessing import spawn
from typing import Any, Dict, List, Optional

from . import preload

_PACKAGES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# An operation of a moment, by a worker that can do it.
_OPERATION_SECONDS = 10

# Why a forkserver, by its address, is not to be used; None where it is.
_unfit: Dict[Any, Optional[str]] = {}


def default_method() -> str:
    """Say how spawn() starts workers where it is not told."""
    # Python's own default on macOS is spawn, because its system libraries may
    # start threads: they do not survive the fork of a process that loads torch.
    methods = multiprocessing.get_all_start_methods()
    return "forkserver" if "forkserver" in methods and sys.platform != "darwin" else "spawn"


def warm_up() -> None:
    """See :func:`wandb_ddp_patch.warm_up`."""
    importing_main = getattr(multiprocessing.current_process(), "_inheriting", False)
    if default_method() != "forkserver" or importing_main:
        return
    data = spawn.get_preparation_data("preload")
    keys = ("sys_path", "sys_argv", "dir", "orig_dir", "init_main_from_name", "init_main_from_path")
    before = dict(os.environ)
    forkserver: Any = importlib.import_module("multiprocessing.forkserver")
    users = [
        name
        for name in forkserver._forkserver._preload_modules
        if name not in ("__main__", preload.__name__)
    ]
    multiprocessing.set_forkserver_preload([preload.__name__, *users])
    try:
        os.environ[preload.VARIABLE] = json.dumps(
            {
                "script": {key: data[key] for key in keys if key in data},
                # In this order: the script may seed NumPy.
                "before": ["numpy.random"] if "numpy.random" in sys.modules else [],
                "after": ["torch.multiprocessing", *_modules_of("wandb")],
                "PYTHONPATH": before.get("PYTHONPATH"),
            },
            default=str,  # a Path in sys.path, or in sys.argv
        )
        if _PACKAGES not in (*site.getsitepackages(), site.getusersitepackages()):
            # The server starts with nothing of this process's sys.path.
            os.environ["PYTHONPATH"] = os.pathsep.join(
                filter(None, [_PACKAGES, before.get("PYTHONPATH")])
            )
        forkserver.ensure_running()
    finally:
        for name in (preload.VARIABLE, "PYTHONPATH"):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


def _modules_of(package: str) -> List[str]:
    # Of the whole package: what a run has needed here, its workers will.
    return sorted(name for name in list(sys.modules) if name.split(".")[0] == package)


def why_not_fork() -> Optional[str]:
    """Ask a first worker whether the forkserver's workers can do their job."""
    try:
        warm_up()
    except ChildProcessError:
        return "this process is a fork of the one that has the forkserver"
    except OSError as error:
        return f"no forkserver can be started: {error}"
    forkserver: Any = importlib.import_module("multiprocessing.forkserver")
    server = forkserver._forkserver._forkserver_address
    if server not in _unfit:
        context = multiprocessing.get_context("forkserver")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_report, args=(sender,), daemon=True)
        try:
            process.start()
            sender.close()
            script = receiver.recv()
            if receiver.poll(_OPERATION_SECONDS):
                what = receiver.recv()
            else:
                what = "starts threads (of OpenMP)"
                process.kill()
            process.join()
            _unfit[server] = (
                what
                and f"importing {script} {what}, which no fork survives; do it in a function"
                ' that the workers call, or under if __name__ == "__main__":'
            )
        except (EOFError, OSError):
            _unfit[server] = "a process that imports the script and is forked then dies"
    return _unfit[server]


def _report(sender: Any) -> None:
    import torch

    sender.send(getattr(sys.modules["__main__"], "__file__", "the script"))
    if getattr(torch.cuda, "_is_in_bad_fork", bool)():
        sender.send("initialises CUDA")
    elif preload.threads:
        sender.send(f"starts threads ({', '.join(preload.threads)})")
    else:
        # Where the script has used torch's own threads, this never returns.
        torch.ones(1 << 18).add_(1)
        sender.send(None)
