"""Whether the forkserver can be used: a first worker tries what all workers will do."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any, Callable, Dict, List, Optional

from . import preload, process_state, server
from .bootstrap import reuse_process_number
from .import_audit import EnvironUse
from .parent_watch import ParentHandle, exit_with_parent

# See StallDetector.
_IDLE_LOOKS, _SPINNING_SECONDS, _UNSEEN_LOOKS = 5, 10, 60

_HANGS = "a process that imports the script and is forked then hangs"
_INSTEAD = 'do it in a function that the workers call, or under if __name__ == "__main__":'


@dataclass
class SelfTestResult:
    """What the first worker has found out.

    Attributes:
        forkserver_problem: Why the forkserver is not to be used, or None.
        equivalence_problem: Why its workers would not be as spawned ones are, or None.
        environ: What importing the script does with its environment.
    """

    forkserver_problem: Optional[str]
    equivalence_problem: Optional[str] = None
    environ: EnvironUse = field(default_factory=EnvironUse)

    @property
    def problem(self) -> Optional[str]:
        """Either of the two."""
        return self.forkserver_problem or self.equivalence_problem


# By the forkserver's address: Python starts another one where one has died.
_results: Dict[object, SelfTestResult] = {}


def forkserver_problem() -> Optional[str]:
    """Return why the workers of the forkserver couldn't do their job, or None.

    It starts the forkserver, and its first worker, where that has not been done.
    """
    try:
        server.start()
        if server.started_in is not None:
            # Before its socket is touched: after setuid(), for one, that is out of reach.
            problem = server.started_in.inheritance_problem(server.pid())
            if problem is not None:
                return problem
        address = server.address()
        if address not in _results:
            result = _run()
            # What is amiss may be because it had imported libraries before the script's time.
            if result.problem and server.start_anew():
                result = _run()
            # To start a worker may have started another forkserver: the result is of that one.
            address = server.address()
            _results[address] = result
    except ChildProcessError:
        return "this process is a fork of the one that started the forkserver"
    except OSError as error:
        return f"no forkserver can be started or reached: {error}"
    return _results[address].forkserver_problem


def equivalence_problem() -> Optional[str]:
    """Return why workers would not be as spawned ones are, or None.

    To be called after :func:`forkserver_problem` has returned None.
    """
    if server.started_in is None:
        return "the program has started a forkserver itself, which has not imported the script"
    result = _results.get(server.address())
    if result is None:  # it has died since, and another thread has started the next one
        return preload.report.problem
    return result.equivalence_problem or server.started_in.import_problem(result.environ)


# --- in the process that starts workers ------------------------------------------


def _run() -> SelfTestResult:
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    is_ours = server.started_in is not None
    problem = _HANGS
    with ParentHandle() as parent, receiver:
        process = context.Process(target=_report, args=(sender, parent, is_ours), daemon=True)
        # Else the user's first worker would be number 2, and be named so.
        reuse_process_number(process)
        try:
            with sender:
                process.start()
            is_stuck = StallDetector(process.pid or 0).is_stuck
            # Where the program has started the forkserver, the worker has yet to import the
            # script, which may wait for whatever it likes.
            script: str = _receive(receiver, process, is_stuck if is_ours else lambda: False)
            problem = _unforkable(script, "starts threads (of OpenMP)")
            result: SelfTestResult = _receive(receiver, process, is_stuck)
            problem = _HANGS  # at its end
            _wait([process.sentinel], is_stuck)
        except (EOFError, ConnectionError):
            return SelfTestResult("a process that imports the script and is forked then dies")
        except _StuckError:
            process.kill()
            result = SelfTestResult(problem)
        process.join()
    return result


def _unforkable(script: str, what: str) -> str:
    return f"importing {script} {what}, and that does not survive a fork; {_INSTEAD}"


class _StuckError(Exception):
    pass


def _receive(receiver: Any, process: Any, is_stuck: Callable[[], bool]) -> Any:
    # The process is waited for as well: where it dies, a fork of this process may hold the other
    # end of the pipe open, and no end of file would ever come.
    _wait([receiver, process.sentinel], is_stuck)
    if not receiver.poll():
        raise EOFError
    return receiver.recv()


def _wait(objects: List[Any], is_stuck: Callable[[], bool]) -> None:
    while not connection.wait(objects, 1):
        if is_stuck():
            raise _StuckError


class StallDetector:
    """Looks at a process once a second, to see whether it will never go on.

    A limit of time would not do: on a busy machine a healthy worker may wait minutes for a
    processor, and all workers would be slow ones for no reason. A worker that waits for a
    processor or for the disk is not asleep ("S"), so one all of whose threads are asleep, and
    that has used no processor time, counts as hung after a few such looks.

    Some deadlocks spin: OpenMP's threads wait like that. So there is also a limit for the
    processor time that the worker may use, which needs nearly none. Only where the threads can't
    be seen, which is not on Linux, is there a limit of time.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._looks = self._idle_looks = self._first_ticks = self._last_ticks = 0

    def is_stuck(self) -> bool:
        """Return True if the process hangs; to be called once a second."""
        self._looks += 1
        seen = process_state.thread_states(self._pid)
        if seen is None:
            return self._looks >= _UNSEEN_LOOKS
        states, ticks = seen
        is_idle = states == {b"S"} and ticks == self._last_ticks
        self._idle_looks = self._idle_looks + 1 if is_idle else 0
        self._first_ticks, self._last_ticks = self._first_ticks or ticks, ticks
        used_seconds = (ticks - self._first_ticks) / os.sysconf("SC_CLK_TCK")
        return self._idle_looks >= _IDLE_LOOKS or used_seconds >= _SPINNING_SECONDS


# --- in the first worker -----------------------------------------------------------


def _report(sender: Any, parent: ParentHandle, is_ours: bool) -> None:
    # Before anything else: this process starts threads of its own now, which would be
    # mistaken for some that the forkserver has.
    lost = process_state.threads_lost_by_fork()
    exit_with_parent(parent, True, threading.Event())
    import torch

    script = getattr(sys.modules["__main__"], "__file__", "the script")
    sender.send(script)
    result = SelfTestResult(
        _forkserver_problem(script, lost, is_ours),
        _equivalence_problem(script),
        preload.report.environ,
    )
    if result.forkserver_problem is None:
        # Large enough to be shared out among torch's threads. Where the script has used these, a
        # fork waits here for threads that it has not, and the parent sees that it hangs.
        torch.ones(1 << 18).add_(1)
    sender.send(result)


def _forkserver_problem(script: str, lost: List[str], is_ours: bool) -> Optional[str]:
    report, torch = preload.report, sys.modules["torch"]
    if is_ours and report.problem:
        return report.problem
    xpu = getattr(torch, "xpu", None)  # from torch 2.4 on
    if any(getattr(kind, "_is_in_bad_fork", bool)() for kind in (torch.cuda, xpu)):
        return _unforkable(script, "initialises CUDA, or another accelerator")
    threads = report.threads or lost
    if threads:
        return _unforkable(script, f"starts threads ({', '.join(threads)})")
    if report.resource:
        what = f"creates {report.resource}, of which each spawned worker has its own"
        return f"importing {script} {what}; {_INSTEAD}"
    if report.timers:
        return f"importing {script} sets a timer ({', '.join(report.timers)})"
    return None


def _equivalence_problem(script: str) -> Optional[str]:
    report = preload.report
    if report.atexit_files:
        what = f"registers atexit handlers ({', '.join(sorted(report.atexit_files))})"
    elif report.open_files:
        what = f"leaves files or connections open ({', '.join(report.open_files)})"
    elif getattr(sys.modules.get("wandb"), "run", None) is not None:
        what = "starts a run"
    elif report.changes:
        return f"importing {script} changes {', '.join(report.changes)}"
    else:
        return None
    return f"importing {script} {what}, which its workers would share"
