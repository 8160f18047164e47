"""spawn(): torch.multiprocessing.spawn's signature, a forkserver's speed.

A spawned worker takes seconds to import torch, wandb and the script. Here a
forkserver imports them once (see _preload.py), and each worker is forked from
it. torch's own code starts the workers and reports their errors.
https://docs.python.org/3/library/multiprocessing.html#contexts-and-start-methods
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import multiprocessing
import os
import pickle
import signal
import site
import sys
import threading
import warnings
from multiprocessing import connection
from multiprocessing import spawn as multiprocessing_spawn
from typing import Any, Callable, Dict, List, Optional, Tuple

from . import _preload

_PACKAGES = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# An operation of a moment, by a worker that can do it.
_OPERATION_SECONDS = 10

# Why a forkserver, by its address, is not to be used; None where it is.
_unfit: Dict[Any, Optional[str]] = {}


def spawn(
    fn: Callable[..., object],
    args: Tuple[Any, ...],
    nprocs: int,
    join: bool,
    daemon: bool,
    start_method: Optional[str],
    patched: bool,
) -> Any:
    """See :func:`wandb_ddp_patch.spawn`."""
    try:
        from torch.multiprocessing import start_processes
    except ImportError:
        raise ImportError("wandb_ddp_patch.spawn() needs PyTorch: pip install torch") from None

    if not patched:
        return start_processes(fn, args, nprocs, join, daemon, start_method or "spawn")
    method = start_method or default_method()
    why = _why_not_fork() if method == "forkserver" else None
    run = _current_run()
    sent = run if method == "fork" or _can_be_sent(run) else None
    if why is None:
        try:
            context = start_processes(_Job(fn, method, sent), args, nprocs, False, daemon, method)
        except ValueError as error:
            if "too many fds" not in str(error) or method != "forkserver":
                raise
            # Each tensor on the CPU is one. No worker has started yet.
            why = "the arguments hold more tensors than a forkserver's workers can be handed"
    if why is not None:
        warnings.warn(
            f"wandb_ddp_patch.spawn() starts its workers with spawn, many times slower,"
            f" because {why}.",
            RuntimeWarning,
            stacklevel=3,
        )
        context = start_processes(_Job(fn, "spawn", sent), args, nprocs, False, daemon, "spawn")
    context.join = functools.partial(_join, context.join, run)
    while join and not context.join():
        pass
    return None if join else context


def default_method() -> str:
    # Python's own default on macOS is spawn, because its system libraries may
    # start threads: they do not survive the fork of a process that loads torch.
    methods = multiprocessing.get_all_start_methods()
    return "forkserver" if "forkserver" in methods and sys.platform != "darwin" else "spawn"


# --- the forkserver ---------------------------------------------------------


def warm_up() -> None:
    """See :func:`wandb_ddp_patch.warm_up`."""
    importing_main = getattr(multiprocessing.current_process(), "_inheriting", False)
    if default_method() != "forkserver" or importing_main:
        return
    data = multiprocessing_spawn.get_preparation_data("preload")
    keys = ("sys_path", "sys_argv", "dir", "orig_dir", "init_main_from_name", "init_main_from_path")
    before = dict(os.environ)
    forkserver: Any = importlib.import_module("multiprocessing.forkserver")
    users = [
        name
        for name in forkserver._forkserver._preload_modules
        if name not in ("__main__", _preload.__name__)
    ]
    multiprocessing.set_forkserver_preload([_preload.__name__, *users])
    try:
        os.environ[_preload.VARIABLE] = json.dumps(
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
        for name in (_preload.VARIABLE, "PYTHONPATH"):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


def _modules_of(package: str) -> List[str]:
    # Of the whole package: what a run has needed here, its workers will.
    return sorted(name for name in list(sys.modules) if name.split(".")[0] == package)


def _why_not_fork() -> Optional[str]:
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
    elif _preload.threads:
        sender.send(f"starts threads ({', '.join(_preload.threads)})")
    else:
        # Where the script has used torch's own threads, this never returns.
        torch.ones(1 << 18).add_(1)
        sender.send(None)


# --- what a worker gets -----------------------------------------------------


class _Job:
    """The user's function, and what its worker needs before it is loaded."""

    def __init__(self, fn: Callable[..., object], method: str, run: Any) -> None:
        self.fn, self.method, self.run = fn, method, run

    def __reduce__(self) -> Any:
        # The parts are loaded in this order, and all of them before args.
        return _arrive, (_Surroundings(self.method), self.run, self.fn, self.method)

    def __call__(self, rank: int, *args: Any) -> object:
        if self.method == "forkserver":
            # torch has the system end a worker whose parent dies, but the
            # parent of this one is the forkserver.
            threading.Thread(target=_end_with_parent, name="wandb_ddp_patch", daemon=True).start()
        return self.fn(rank, *args)


def _arrive(surroundings: None, run: Any, fn: Callable[..., object], method: str) -> _Job:
    if run is not None:
        from . import worker

        worker.make_current(run)
    return _Job(fn, method, run)


class _Surroundings:
    def __init__(self, method: str) -> None:
        self.method = method

    def __reduce__(self) -> Any:
        if self.method == "forkserver":
            return _surround, (dict(os.environ),)
        return type(None), ()


def _surround(environ: Dict[str, str]) -> None:
    """Make a worker that a forkserver has forked what a spawned one is."""
    before = os.environ.get("OMP_NUM_THREADS")
    for name in set(os.environ) - set(environ):
        del os.environ[name]
    os.environ.update(environ)
    threads = environ.get("OMP_NUM_THREADS", "")
    if threads != before and threads.isdigit() and "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(int(threads))  # it has read that already
    _preload.set_random_state()


def _end_with_parent() -> None:
    parent = multiprocessing.process.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGINT)


# --- the parent's run -------------------------------------------------------


def _current_run() -> Any:
    return getattr(sys.modules.get("wandb"), "run", None)


def _can_be_sent(run: Any) -> bool:
    try:
        pickle.dumps(run)
    except Exception as error:
        warnings.warn(
            f"wandb_ddp_patch.spawn() starts its workers without the current run: {error}",
            RuntimeWarning,
            stacklevel=4,
        )
        return False
    return True


def _join(join: Callable[..., bool], run: Any, *args: Any, **kwargs: Any) -> bool:
    try:
        return join(*args, **kwargs)
    except Exception:  # torch's two, that say how a worker ended
        if run is not None and "_ddp_exit_code" not in run.__dict__:
            run.__dict__["_ddp_exit_code"] = 1
            atexit.register(_finish_failed, run)
        raise


def _finish_failed(run: Any) -> None:
    # wandb's own hook knows only how this process ends.
    if _current_run() is run:
        run.finish(exit_code=1)
