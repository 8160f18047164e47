"""The forkserver of spawn(): started early, with what it is to import."""

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
from typing import Any, Iterator, List, Optional

from .. import _lifecycle
from . import preload
from .import_audit import ProcessSnapshot

_PACKAGES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Linux takes variables of up to 128 KiB.
_LONGEST_VARIABLE = 100_000
_lock = threading.Lock()
# How Python starts it; and what is to be done before.
_COMMAND = "from multiprocessing.forkserver import main;"
_FIRST = "import sys; sys.path[:] = filter(None, sys.path); "
# Those in which this process has started a forkserver; None where it found its program's.
started_in: Optional[ProcessSnapshot] = None


@_lifecycle.in_forked_child(_lifecycle.ForkStage.RENEW_LOCKS)
def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()  # another thread of the parent may hold it


class _Names(List[str]):
    """The names of modules, of which Python is not to know how many there are.

    Else it puts all of sys.path beside them on the forkserver's command line, which
    may be too long for the system then. preload.py sets sys.path.
    """

    def __bool__(self) -> bool:
        return False


def default_method() -> str:
    """Say how spawn() starts workers where it is not told."""
    # Python's own default on macOS is spawn, because its system libraries may
    # start threads: they do not survive the fork of a process that loads torch.
    methods = multiprocessing.get_all_start_methods()
    return "forkserver" if "forkserver" in methods and sys.platform != "darwin" else "spawn"


def warm_up() -> None:
    """See :func:`wandb_ddp_patch.warm_up`."""
    importing_main = getattr(multiprocessing.current_process(), "_inheriting", False)
    if default_method() == "forkserver" and not importing_main:
        with contextlib.suppress(OSError):  # spawn() will say it
            start()


def start() -> None:
    """Start the forkserver, if none is running.

    Raises:
        ChildProcessError: This process is a fork of the one that has it.
        OSError: It can't be started.
    """
    global started_in
    forkserver: Any = importlib.import_module("multiprocessing.forkserver")
    server = forkserver._forkserver
    with _lock:  # what is set here is seen by all threads
        if _is_running(server):
            return
        ours = preload.__name__
        users = [n for n in server._preload_modules if n not in ("__main__", ours)]
        multiprocessing.set_forkserver_preload(_Names([ours, *users]))
        circumstances = ProcessSnapshot()
        what = json.dumps(_what_to_import(), default=str)  # a Path in sys.path
        with _handed_over(what), _current_folder_left_out():
            forkserver.ensure_running()
        started_in = circumstances


@contextlib.contextmanager
def _current_folder_left_out() -> Iterator[None]:
    """Have a forkserver that starts now find nothing in the current folder.

    For ``python -c`` that is first on sys.path: a random.py there, which may be another
    user's, would be run by imports that a spawned worker does with the script's sys.path.
    """
    module: Any = util
    upstream = module.spawnv_passfds

    def spawnv_passfds(path: Any, args: Any, passfds: Any) -> Any:
        *others, command = args
        if command.startswith(_COMMAND):
            args = [*others, _FIRST + command]
        return upstream(path, args, passfds)

    module.spawnv_passfds = spawnv_passfds
    try:
        yield
    finally:
        module.spawnv_passfds = upstream


def _is_running(server: Any) -> bool:
    # As ensure_running() asks; but that it has ended is left there, to be seen again.
    pid = server._forkserver_pid
    if pid is None or not hasattr(os, "waitid"):  # macOS has it from Python 3.13 on
        return pid is not None
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def _what_to_import() -> Any:
    # A script may ask for the process's name, to see whether it is a worker.
    data = spawn.get_preparation_data("SpawnProcess-1")
    about_it = "name", "start_method", "init_main_from_name", "init_main_from_path"
    keys = ("sys_path", "sys_argv", "dir", "orig_dir", *about_it)
    return {
        "script": {key: data[key] for key in keys if key in data},
        # In this order: the script may seed NumPy.
        "before": ["numpy.random"] if "numpy.random" in sys.modules else [],
        "after": ["torch.multiprocessing", *_modules_of("wandb")],
        "PYTHONPATH": os.environ.get("PYTHONPATH"),
    }


def _modules_of(package: str) -> List[str]:
    # Of the whole package: what a run has needed here, its workers will.
    return sorted(name for name in list(sys.modules) if name.split(".")[0] == package)


@contextlib.contextmanager
def _handed_over(text: str) -> Iterator[None]:
    """Have the environment, for a process that starts now, lead to this text."""
    before = dict(os.environ)
    os.environ[preload.VARIABLE] = _file_of(text)
    if _PACKAGES not in (*site.getsitepackages(), site.getusersitepackages()):
        # The server starts with nothing of this process's sys.path.
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


def _file_of(text: str) -> str:
    # A file of this user's alone, in a folder that goes with this process; so long may
    # sys.argv and sys.path be. The server removes it.
    try:
        descriptor, path = tempfile.mkstemp(prefix="preload-", dir=util.get_temp_dir())
        try:
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(text)
        except OSError:
            os.remove(path)
            raise
    except OSError:  # the disk is full
        if len(text) > _LONGEST_VARIABLE:
            raise
        return text
    return path
