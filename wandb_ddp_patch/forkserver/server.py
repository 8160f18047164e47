"""The forkserver of spawn(): starts it, with what it is to import."""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import sys
import tempfile
import threading
from multiprocessing import spawn, util
from typing import Any, ContextManager, List, Optional, Sequence

from .. import _lifecycle
from . import command, early_start, preload
from .early_start import EarlyServer
from .import_audit import ProcessSnapshot, replaced

_lock = threading.Lock()
# This process as it was when it started the forkserver; None where there was one already, which
# the program has started.
started_in: Optional[ProcessSnapshot] = None
# Where it listens, if it had imported libraries before it was asked for.
_early_address: object = None


@_lifecycle.in_forked_child(_lifecycle.ForkStage.RENEW_LOCKS)
def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()  # another thread of the parent may hold it


class _FalsyList(List[str]):
    """The modules to preload, as a list that Python takes for an empty one.

    Where Python sees that there are some, it also puts all of sys.path on the forkserver's
    command line. A long one would be more than the system takes, and a path that is no string
    would end the server. preload.py sets sys.path.
    """

    def __bool__(self) -> bool:
        return False


def default_method() -> str:
    """Return the start method of spawn() where it is not told one."""
    # Python's own default on macOS is spawn, because its system libraries may
    # start threads: they do not survive the fork of a process that loads torch.
    methods = multiprocessing.get_all_start_methods()
    return "forkserver" if "forkserver" in methods and sys.platform != "darwin" else "spawn"


def warm_up() -> None:
    """See :func:`wandb_ddp_patch.warm_up`."""
    if default_method() == "forkserver" and not is_importing_main():
        with contextlib.suppress(OSError):  # spawn() will meet it again, and warn
            start()


def is_importing_main() -> bool:
    """Return True in a worker that is importing the script, where no process can be started."""
    return getattr(multiprocessing.current_process(), "_inheriting", False)


def pid() -> Optional[int]:
    """Return the forkserver's process number; None where there is none."""
    number: Optional[int] = _forkserver()._forkserver_pid
    return number


def address() -> object:
    """Return what tells the forkserver from earlier ones: the name of its socket."""
    return _forkserver()._forkserver_address


def start() -> None:
    """Start the forkserver, if none is running.

    Raises:
        ChildProcessError: This process is a fork of the one that has it.
        OSError: It can't be started.
    """
    global started_in, _early_address
    forkserver = _forkserver()
    # Held until the snapshot is set: another thread that finds the forkserver running would else
    # take it for the program's.
    with _lock:
        if _is_running(forkserver):
            early_start.discard()
            return
        ours = preload.__name__
        users = [n for n in forkserver._preload_modules if n not in ("__main__", ours)]
        multiprocessing.set_forkserver_preload(_FalsyList([ours, *users]))
        early = early_start.take()
        snapshot = ProcessSnapshot()
        try:
            path = _write_request(_preload_request())
            with command.package_passed_on(**{preload.VARIABLE: path}), _amended_start(path, early):
                forkserver.ensure_running()
        except BaseException:
            if early is not None:
                early.end()
            raise
        started_in = snapshot
        _early_address = None if early is None else address()


def start_anew() -> bool:
    """Replace a forkserver that had imported libraries early by one that has not.

    Returns:
        False where there is no such forkserver.

    Raises:
        OSError: The new one can't be started.
    """
    forkserver = _forkserver()
    with _lock:
        if _early_address is None or _early_address != address():
            return False
        # _stop() waits for as long as it takes, such as for a thread that the script has started.
        alive = forkserver._forkserver_alive_fd
        forkserver._forkserver_alive_fd = os.open(os.devnull, os.O_RDONLY)
        os.close(alive)
        early_start.end_child(forkserver._forkserver_pid)
        forkserver._stop()
    start()
    return True


def _forkserver() -> Any:
    # Late: Windows has no such module.
    return importlib.import_module("multiprocessing.forkserver")._forkserver


def _amended_start(request: str, early: Optional[EarlyServer]) -> ContextManager[None]:
    """Amend how multiprocessing starts its forkserver.

    It is a process that is there already, where there is one; and what is in the current folder
    is not imported by it.
    """
    module: Any = util
    upstream = module.spawnv_passfds

    def spawnv_passfds(path: bytes, args: Sequence[str], passfds: Sequence[int]) -> int:
        *others, line = args
        # Another thread may start another process meanwhile, such as the resource tracker.
        if command.COMMAND in line:
            if early is not None:
                try:
                    return early.become(line, request, passfds)
                except OSError:
                    early.end()
            args = [*others, command.WITHOUT_CURRENT_FOLDER + line]
        number: int = upstream(path, args, passfds)
        return number

    return replaced(module, spawnv_passfds=spawnv_passfds)


def _is_running(forkserver: Any) -> bool:
    # As ensure_running() finds out, but with WNOWAIT: that it has ended is for ensure_running()
    # to collect, which else raises because there is no such child.
    number = forkserver._forkserver_pid
    if number is None or not hasattr(os, "waitid"):  # macOS has it from Python 3.13 on
        return number is not None
    return os.waitid(os.P_PID, number, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def _preload_request() -> preload.PreloadRequest:
    # The script may look at the process's name, to see whether it is in a worker.
    data = spawn.get_preparation_data("SpawnProcess-1")
    main = "init_main_from_name", "init_main_from_path"
    keys = ("sys_path", "sys_argv", "dir", "orig_dir", "name", "start_method", *main)
    return {
        # Before the script, which may seed it.
        "before": ["numpy.random"] if "numpy.random" in sys.modules else [],
        "script": {key: data[key] for key in keys if key in data},
        # All of wandb's modules that are loaded here: what the run has needed in this process,
        # it will need in workers.
        "after": ["torch.multiprocessing", *_loaded_modules("wandb")],
        "pythonpath": os.environ.get("PYTHONPATH"),
    }


def _loaded_modules(package: str) -> List[str]:
    return sorted(name for name in list(sys.modules) if name.split(".")[0] == package)


def _write_request(request: preload.PreloadRequest) -> str:
    """Write the request to a file, which the forkserver removes, and return its path.

    sys.argv and sys.path may be longer than the 128 KiB that Linux takes in a variable. The file
    is this user's alone, and in a folder that goes with this process.
    """
    descriptor, path = tempfile.mkstemp(prefix="preload-", dir=util.get_temp_dir())
    with open(descriptor, "w", encoding="ascii") as file:
        json.dump(request, file, default=str)  # sys.path may contain a Path
    return path
