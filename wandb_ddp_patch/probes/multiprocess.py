"""Calling functions in other processes: in workers, and in a later session."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
import time
from multiprocessing.reduction import ForkingPickler
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from .verdict import last_line

# For probes that are run without a time limit: the runner's own is shorter. A worker needs
# seconds, but many of them where the machine is busy.
HANG_SECONDS = 300

# What counts as at once: on a busy machine, it may take seconds. wandb's own waits, for a
# service that is gone or does not answer, take 10 s or more.
AT_ONCE_SECONDS = 9

# A regular expression: what wandb alone says where a worker can't use the run it was passed.
UNUSABLE = "attach(ing)? to run|'Run' object has no attribute '_"

# Variables that a later session does not have.
_OF_A_SESSION = ("WANDB_SERVICE", "WANDB_API_KEY")

Job = Tuple[str, Callable[..., Any], Tuple[Any, ...]]

# The process group that workers join, where they are forked from the forkserver from which this
# probe was forked; None where each is started as its start method does.
_group: Optional[int] = None


def fork_spawned_workers(group: int) -> None:
    """Have workers forked from the forkserver that this process came from.

    A spawned one then differs in that wandb is imported already; its environment and arguments
    are the same.

    Args:
        group: The process group that they join.
    """
    global _group
    _group = group


@contextlib.contextmanager
def really_started() -> Iterator[None]:
    """Have workers that are started in the block started as their start method does."""
    global _group
    group, _group = _group, None
    try:
        yield
    finally:
        _group = group


def start_methods() -> List[str]:
    """Return those of spawn and forkserver that this platform has."""
    return [m for m in ("spawn", "forkserver") if m in multiprocessing.get_all_start_methods()]


def fork() -> str:
    """Return ``"fork"``, or ``"spawn"`` where the platform has no fork."""
    return "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"


def in_worker(function: Callable[..., Any], *args: Any, method: str = "spawn") -> Any:
    """Call a function in a worker process and return what it returns.

    Raises:
        RuntimeError: The function raised, or the worker died or hangs.
    """
    return in_workers([(method, function, args)])[0]


def in_workers(jobs: List[Job], meanwhile: Callable[[], object] = bool) -> List[Any]:
    """Call functions in worker processes, all at the same time, and return their results.

    Args:
        jobs: For each worker, its start method, the function and its arguments.
        meanwhile: Called once all have been started.

    Raises:
        RuntimeError: A function raised, or a worker died or hangs.
    """
    started, results = [], []
    try:
        for job in jobs:
            started.append(_start(*job))
        meanwhile()
        deadline = time.monotonic() + HANG_SECONDS
        for (method, _, _), (process, receiver) in zip(jobs, started):
            if not receiver.poll(max(0, deadline - time.monotonic())):
                raise RuntimeError(f"the {method} worker hangs")
            results.append(_receive(method, process, receiver))
        for process, _ in started:
            process.join(max(5, deadline - time.monotonic()))
    finally:
        for process, _ in started:
            process.kill()
    return results


class _Arguments:
    """A worker's arguments, which it unpickles itself.

    Otherwise multiprocessing would, before it calls anything of ours: where that fails, the
    worker just dies, and the error that the probe is about is on stderr only.
    """

    def __init__(
        self,
        values: Tuple[Any, ...],
        error: str = "",
        environ: Optional[Dict[str, str]] = None,
    ) -> None:
        """Set the environment that the worker gets first; None leaves it as it is."""
        self.values, self.error, self.environ = values, error, environ

    def __reduce__(self) -> Tuple[Any, ...]:
        return _load_arguments, (self.environ, bytes(ForkingPickler.dumps(self.values)))


def _load_arguments(environ: Optional[Dict[str, str]], data: bytes) -> _Arguments:
    if environ is not None:
        os.environ.clear()
        os.environ.update(environ)
    try:
        return _Arguments(pickle.loads(data))
    except Exception as error:
        return _Arguments((), f"{type(error).__name__}: {error}")


def _start(
    method: str, function: Callable[..., Any], args: Tuple[Any, ...]
) -> Tuple[multiprocessing.Process, Any]:
    is_forked = _group is not None and method != "fork"
    context: Any = multiprocessing.get_context("forkserver" if is_forked else method)
    if method == "forkserver":  # saves time
        context.set_forkserver_preload(["wandb", __name__])
    receiver, sender = context.Pipe(duplex=False)
    environ = dict(os.environ) if is_forked else None
    job = _group if is_forked else None, sender, function, _Arguments(args, environ=environ)
    process = context.Process(target=_run_job, args=job)
    with _forkserver_of_this_process() if is_forked else contextlib.nullcontext():
        process.start()
    sender.close()
    return process, receiver


@contextlib.contextmanager
def _forkserver_of_this_process() -> Iterator[None]:
    """Have multiprocessing use the forkserver that this process came from.

    It knows the address, but not that the server is running, and would start another one.
    """
    forkserver = importlib.import_module("multiprocessing.forkserver")._forkserver
    forkserver.ensure_running = bool
    try:
        yield
    finally:
        del forkserver.ensure_running


def _run_job(
    group: Optional[int], sender: Any, function: Callable[..., Any], args: _Arguments
) -> None:
    if group is not None:
        os.setpgid(0, group)
        fork_spawned_workers(group)
    try:
        sender.send((False, args.error) if args.error else (True, function(*args.values)))
    except Exception as error:
        sender.send((False, f"{type(error).__name__}: {error}"))


def _receive(method: str, process: multiprocessing.Process, receiver: Any) -> Any:
    try:
        ok, result = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"the {method} worker died, exit code {process.exitcode}") from None
    if not ok:
        raise RuntimeError(f"in the {method} worker: {result}")
    return result


def load_in_new_session(data: bytes, function: Callable[..., Any]) -> Any:
    """Unpickle in a process that knows of no service, as in a later session.

    Args:
        data: A pickle.
        function: Called there with what was unpickled.

    Returns:
        What the function returns.

    Raises:
        RuntimeError: The function raised, or the pickle can't be loaded there.
        subprocess.TimeoutExpired: It hangs.
    """
    if _group is not None:
        return in_worker(_load_without_service, data, function)
    environ = {k: v for k, v in os.environ.items() if k not in _OF_A_SESSION}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "pickle")
        with open(path, "wb") as file:
            pickle.dump((function, data), file)
        code = (
            "import pickle, sys\n"
            "function, data = pickle.load(open(sys.argv[1], 'rb'))\n"
            "result = function(pickle.loads(data))\n"
            "pickle.dump(result, open(sys.argv[1], 'wb'))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, path],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
        )
        if done.returncode:
            raise RuntimeError(f"in a later session: {last_line(done.stderr)}")
        with open(path, "rb") as file:
            return pickle.load(file)


def _load_without_service(data: bytes, function: Callable[..., Any]) -> Any:
    for name in _OF_A_SESSION:
        os.environ.pop(name, None)
    return function(pickle.loads(data))
