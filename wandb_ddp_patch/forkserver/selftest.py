"""Whether the forkserver is of use: a first worker tries what the workers will do."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import threading
from multiprocessing import connection
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from . import kernel, preload, server
from .bootstrap import reuse_process_number
from .import_audit import EnvironUse
from .parent_watch import ParentHandle, exit_with_parent

# A worker that can do it has done it in a moment, but for other work on the machine.
# So these are no limits of time: how often, a second apart, nothing of it may be seen to
# move, nor to be ready to; and, because some wait without sleeping, how many seconds of
# processor time it may take.
_STILL, _SPINNING_SECONDS = 5, 10
# The limit in seconds where that is not to be seen, which is on Linux.
_UNSEEN_SECONDS = 60

_HANGS = "a process that imports the script and is forked then hangs"
_INSTEAD = 'do it in a function that the workers call, or under if __name__ == "__main__":'

# Why a forkserver, by its address, is not to be used; None where it is.
_unfit: Dict[Any, Optional[str]] = {}
# The same for workers that are to be as spawned ones are; and what importing the script does
# with its environment.
_unlike: Dict[Any, Tuple[Optional[str], EnvironUse]] = {}


def forkserver_problem() -> Optional[str]:
    """Ask a first worker whether the forkserver's workers can do their job."""
    forkserver: Any = importlib.import_module("multiprocessing.forkserver")
    try:
        server.start()
        if server.started_in is not None:
            why = server.started_in.handed_on_changed(forkserver._forkserver._forkserver_pid)
            if why is not None:
                return why  # before its socket is touched, which may be another user's by now
        address = forkserver._forkserver._forkserver_address
        if address not in _unfit:
            why, unlike = _try()
            # It may be another one by now: Python starts one where one has died.
            address = forkserver._forkserver._forkserver_address
            # In this order: other threads look for the second where they have found the first.
            _unlike[address] = unlike
            _unfit[address] = why
    except ChildProcessError:
        return "this process is a fork of the one that has the forkserver"
    except OSError as error:
        return f"no forkserver can be started, or reached: {error}"
    return _unfit[address]


def equivalence_problem() -> Optional[str]:
    """Say why its workers would not be as spawned ones are, once it can be used."""
    forkserver: Any = importlib.import_module("multiprocessing.forkserver")
    if server.started_in is None:
        return "the program has started a forkserver itself, which has not imported the script"
    address = forkserver._forkserver._forkserver_address
    if address not in _unlike:  # another thread has started the next one
        return preload.why_not_loaded
    why, use = _unlike[address]
    return server.started_in.changed(use) if why is None else why


def _try() -> Tuple[Optional[str], Tuple[Optional[str], EnvironUse]]:
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    is_ours = server.started_in is not None
    why: Optional[str] = _HANGS
    unlike: Tuple[Optional[str], EnvironUse] = (None, EnvironUse())
    with ParentHandle() as parent, receiver:
        process = context.Process(target=_report, args=(sender, parent, is_ours), daemon=True)
        reuse_process_number(process)
        try:
            with sender:
                process.start()
            is_stuck = _stuck(process.pid or 0)
            # Where the forkserver is not ours, it imports the script, which takes its time.
            script: str = _answer(receiver, process, is_stuck if is_ours else lambda: False)
            why = _not_survived(script, "starts threads (of OpenMP)")
            answer: Optional[str] = _answer(receiver, process, is_stuck)
            why = _HANGS
            unlike = _answer(receiver, process, is_stuck)
            _wait([process.sentinel], is_stuck)
            why = answer
        except (EOFError, ConnectionError):
            return "a process that imports the script and is forked then dies", unlike
        except _Stuck:
            process.kill()
        process.join()
    return why, unlike


def _not_survived(script: str, what: str) -> str:
    return f"importing {script} {what}, which no fork survives; {_INSTEAD}"


class _Stuck(Exception):
    pass


def _answer(receiver: Any, process: Any, is_stuck: Callable[[], bool]) -> Any:
    # The process, too: a fork of this one may hold the pipe open.
    _wait([receiver, process.sentinel], is_stuck)
    if not receiver.poll():
        raise EOFError
    return receiver.recv()


def _wait(objects: List[Any], is_stuck: Callable[[], bool]) -> None:
    while not connection.wait(objects, 1):
        if is_stuck():
            raise _Stuck


def _stuck(pid: int) -> Callable[[], bool]:
    """Give what says, asked each second, whether that process will never go on."""
    looks = still = first = last = 0

    def is_stuck() -> bool:
        nonlocal looks, still, first, last
        looks += 1
        seen = _threads(pid)
        if seen is None:
            return looks >= _UNSEEN_SECONDS
        states, ticks = seen
        still = still + 1 if states == {b"S"} and ticks == last else 0
        first, last = first or ticks, ticks
        spun = (ticks - first) / os.sysconf("SC_CLK_TCK")
        return still >= _STILL or spun >= _SPINNING_SECONDS

    return is_stuck


def _threads(pid: int) -> Optional[Tuple[Set[bytes], int]]:
    """The states of its threads, and the processor time of its first, in ticks."""
    states, ticks = set(), 0
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            states.add(fields[0])
            if thread == str(pid):
                ticks = int(fields[11]) + int(fields[12])
    except OSError:
        return None
    return states, ticks


def _report(sender: Any, parent: ParentHandle, is_ours: bool) -> None:
    lost = kernel.lost_threads()  # first: this process starts its own now
    exit_with_parent(parent, True, threading.Event())
    import torch

    script = getattr(sys.modules["__main__"], "__file__", "the script")
    sender.send(script)
    why = _unfit_to_fork(script, lost, is_ours)
    if why is None:
        # Where the script has used torch's own threads, this never returns.
        torch.ones(1 << 18).add_(1)
    sender.send(why)
    sender.send((_unlike_spawned(script), preload.use))


def _unfit_to_fork(script: str, lost: List[str], is_ours: bool) -> Optional[str]:
    torch = sys.modules["torch"]
    xpu = getattr(torch, "xpu", None)  # from torch 2.4 on
    if is_ours and preload.why_not_loaded:
        return preload.why_not_loaded
    if any(getattr(kind, "_is_in_bad_fork", bool)() for kind in (torch.cuda, xpu)):
        return _not_survived(script, "initialises CUDA, or another accelerator")
    threads = preload.threads or lost
    if threads:
        return _not_survived(script, f"starts threads ({', '.join(threads)})")
    if preload.made:
        what = f"sets up {preload.made}, of which a spawned worker has its own"
        return f"importing {script} {what}; {_INSTEAD}"
    if preload.timers:
        return f"importing {script} changes a timer ({', '.join(preload.timers)})"
    return None


def _unlike_spawned(script: str) -> Optional[str]:
    what = None
    if preload.at_exit:
        what = f"has atexit do something ({', '.join(sorted(preload.at_exit))})"
    elif preload.left_open:
        what = f"leaves files or connections open ({', '.join(preload.left_open)})"
    elif getattr(sys.modules.get("wandb"), "run", None) is not None:
        what = "starts a run"
    elif preload.changed:
        return f"importing {script} changes {', '.join(preload.changed)}"
    return what and f"importing {script} {what}, which its workers would share"
