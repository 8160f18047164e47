"""The forkserver of spawn(): starts it, with what it is to import."""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import site
import sys
import tempfile
import threading
from multiprocessing import spawn, util
from typing import Any, ContextManager, Iterator, List, Optional, Sequence

from .. import _lifecycle
from . import preload
from .import_audit import ProcessSnapshot, replaced

_PACKAGES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_lock = threading.Lock()
# How the command begins by which Python starts the forkserver; and what is put before it.
_COMMAND = "from multiprocessing.forkserver import main;"
_WITHOUT_CURRENT_FOLDER = "import sys; sys.path[:] = filter(None, sys.path); "
# This process as it was when it started the forkserver; None where there was one already, which
# the program has started.
started_in: Optional[ProcessSnapshot] = None


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
    global started_in
    forkserver = _forkserver()
    # Held until the snapshot is set: another thread that finds the forkserver running would else
    # take it for the program's.
    with _lock:
        if _is_running(forkserver):
            return
        ours = preload.__name__
        users = [n for n in forkserver._preload_modules if n not in ("__main__", ours)]
        multiprocessing.set_forkserver_preload(_FalsyList([ours, *users]))
        snapshot = ProcessSnapshot()
        request = json.dumps(_preload_request(), default=str)  # sys.path may contain a Path
        with _passed_by_environment(request), _current_folder_left_out():
            forkserver.ensure_running()
        started_in = snapshot


def _forkserver() -> Any:
    # Late: Windows has no such module.
    return importlib.import_module("multiprocessing.forkserver")._forkserver


def _current_folder_left_out() -> ContextManager[None]:
    """Keep a forkserver that starts now from importing what is in the current folder.

    For ``python -c`` that folder is first on sys.path, as "". A random.py there, which may be
    another user's, would be run by the forkserver's own imports; a spawned worker, which has the
    script's sys.path by then, does not run it.
    """
    module: Any = util
    upstream = module.spawnv_passfds

    def spawnv_passfds(path: bytes, args: Sequence[str], passfds: Sequence[int]) -> int:
        *others, command = args
        # Another thread may start another process meanwhile, such as the resource tracker.
        if command.startswith(_COMMAND):
            args = [*others, _WITHOUT_CURRENT_FOLDER + command]
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


@contextlib.contextmanager
def _passed_by_environment(request: str) -> Iterator[None]:
    """Have a process that starts now find the request, and this package."""
    before = dict(os.environ)
    os.environ[preload.VARIABLE] = _write_request(request)
    # The forkserver starts with nothing of this process's sys.path. Without this, it could not
    # import preload.py where only the script's sys.path leads to this package.
    if _PACKAGES not in (*site.getsitepackages(), site.getusersitepackages()):
        os.environ["PYTHONPATH"] = os.pathsep.join(
            filter(None, [_PACKAGES, before.get("PYTHONPATH")])
        )
    try:
        yield
    finally:
        for name in (preload.VARIABLE, "PYTHONPATH"):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


def _write_request(request: str) -> str:
    """Write the request to a file, which the forkserver removes, and return its path.

    sys.argv and sys.path may be longer than the 128 KiB that Linux takes in a variable. The file
    is this user's alone, and in a folder that goes with this process.
    """
    descriptor, path = tempfile.mkstemp(prefix="preload-", dir=util.get_temp_dir())
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(request)
    return path
