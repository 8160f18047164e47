"""Calling functions in other processes: workers, and sessions that come later."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
import time
from multiprocessing.reduction import ForkingPickler
from typing import Any, Callable, List, Tuple

from .verdict import last_line

# For whoever runs a probe without a time limit: the runner's own is shorter. A
# worker needs seconds, but many of them where the machine is busy.
HANG_SECONDS = 300

# What happens at once takes a moment, and seconds where the machine is busy. What
# waits for a service that is gone, or that answers nobody here, waits 10 s or more.
AT_ONCE_SECONDS = 9

# What wandb alone says where a worker can't use the run that it was handed.
UNUSABLE = "attach(ing)? to run|'Run' object has no attribute '_"

Job = Tuple[str, Callable[..., Any], Tuple[Any, ...]]


def start_methods() -> List[str]:
    """List the start methods, of those that import a worker's modules anew, there are."""
    return [m for m in ("spawn", "forkserver") if m in multiprocessing.get_all_start_methods()]


def fork() -> str:
    """Return ``"fork"``, or what stands for it where there is none."""
    return "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"


def in_worker(function: Callable[..., Any], *args: Any, method: str = "spawn") -> Any:
    """Call a function in a worker process and return what it returns.

    Raises:
        RuntimeError: It raised, died, or hangs.
    """
    return in_workers([(method, function, args)])[0]


def in_workers(jobs: List[Job], meanwhile: Callable[[], object] = bool) -> List[Any]:
    """Call functions in worker processes, all at once, and return their results.

    Args:
        jobs: Start methods, functions and their arguments.
        meanwhile: Called once all have been started.

    Raises:
        RuntimeError: One of them raised, died, or hangs.
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
    """A worker's arguments: that they can't be loaded is its answer, not its silent death."""

    def __init__(self, values: Tuple[Any, ...], error: str = "") -> None:
        self.values, self.error = values, error

    def __reduce__(self) -> Tuple[Any, ...]:
        return _loaded, (bytes(ForkingPickler.dumps(self.values)),)


def _loaded(data: bytes) -> _Arguments:
    try:
        return _Arguments(pickle.loads(data))
    except Exception as error:
        return _Arguments((), f"{type(error).__name__}: {error}")


def _start(
    method: str, function: Callable[..., Any], args: Tuple[Any, ...]
) -> Tuple[multiprocessing.Process, Any]:
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":  # to save time
        context.set_forkserver_preload(["wandb", __name__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, function, _Arguments(args)))
    process.start()
    sender.close()
    return process, receiver


def _work(sender: Any, function: Callable[..., Any], args: _Arguments) -> None:
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
    """Unpickle in a process that knows no service, as a later session does.

    Args:
        data: A pickle.
        function: Called there with what the pickle holds; its result is returned.

    Raises:
        RuntimeError: It raised, or the pickle can't be loaded there.
        subprocess.TimeoutExpired: It hangs.
    """
    env = {k: v for k, v in os.environ.items() if k not in ("WANDB_SERVICE", "WANDB_API_KEY")}
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
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
        )
        if done.returncode:
            raise RuntimeError(f"in a later session: {last_line(done.stderr)}")
        with open(path, "rb") as file:
            return pickle.load(file)
