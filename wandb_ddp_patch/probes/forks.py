"""Runs probes in forks of a process that has imported wandb and torch, several at a time.

``python -m wandb_ddp_patch.probes --forks`` calls :func:`serve`. It starts a forkserver of
multiprocessing's. Each probe is a process from there, and so are the workers that it starts
(see multiprocess.py), but where the probe asks for real ones.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import sys
import time
from multiprocessing import connection
from typing import Any, Dict, List, Optional, Tuple

from . import multiprocess
from .here import run_here
from .offline_run import offline_run

# How long the start of a run may take.
_RUN_SECONDS = 30

# Processor time, in ticks of 10 ms, that is no work.
_IDLE_TICKS = 10

_PRELOADED = f"{__package__}.preloaded"


def available() -> bool:
    """Return True if probes can be forked here."""
    # macOS has a forkserver, but its system libraries may start threads, which a fork lacks.
    methods = multiprocessing.get_all_start_methods()
    return "forkserver" in methods and sys.platform != "darwin"


def serve(folder: str) -> None:
    """Run the probes that standard input names, one a line, until it ends.

    A line ``kill NAME`` kills a probe. For each, lines tell of its start, with its process
    number, and of its end, with its exit code: ``started NAME PID``, ``ended NAME CODE``. What it
    prints, its verdict included, goes to a file ``NAME.out``.

    Args:
        folder: Where these files are written.
    """
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_PRELOADED])
    processes: Dict[str, Any] = {}
    commands, unread = sys.stdin.fileno(), b""
    try:
        while True:
            by_sentinel = {process.sentinel: name for name, process in processes.items()}
            ready = connection.wait([commands, *by_sentinel])
            for sentinel in by_sentinel.keys() & set(ready):
                name = by_sentinel[sentinel]
                process = processes.pop(name)
                process.join()
                _kill_group(process.pid)  # what it has started and left
                print(f"ended {name} {process.exitcode}", flush=True)
            if commands in ready:
                data = os.read(commands, 65536)
                if not data:
                    return
                *lines, unread = (unread + data).split(b"\n")
                for line in lines:
                    _obey(line.decode(), folder, context, processes)
    finally:
        for process in processes.values():
            kill(process.pid)


def _obey(line: str, folder: str, context: Any, processes: Dict[str, Any]) -> None:
    verb, name = line.split() if " " in line else ("run", line)
    if verb == "kill":
        if name in processes:
            kill(processes[name].pid)
        return
    process = processes[name] = context.Process(target=_run, args=(name, folder))
    process.start()
    print(f"started {name} {process.pid}", flush=True)


def kill(pid: int) -> None:
    """Kill a probe's process, which has not been waited for, and its workers."""
    _kill_group(pid)
    # Its group may not be there yet.
    with contextlib.suppress(OSError):
        os.kill(pid, 9)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(pid, 9)


def _run(name: str, folder: str) -> None:
    """Run a probe in this process, and end it."""
    os.setpgid(0, 0)
    with open(os.path.join(folder, f"{name}.out"), "wb") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    multiprocess.fork_spawned_workers(os.getpid())
    print("\n" + run_here(name).to_line(), flush=True)
    # Not by way of the exit handlers: wandb's may wait for what the probe has broken.
    os._exit(0)


def read_output(folder: str, name: str) -> List[str]:
    """Return the lines that a probe has printed."""
    try:
        with open(os.path.join(folder, f"{name}.out"), encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except FileNotFoundError:  # it died before
        return []


class IdleWatch:
    """How long a process group has done nothing; on Linux only, else 0."""

    def __init__(self) -> None:
        """Begin to watch."""
        self._since, self._ticks = time.monotonic(), 0

    def seconds(self, group: Optional[int]) -> float:
        """Return for how many seconds no process of the group has run, or waited for a processor.

        Args:
            group: Its number; None where it has not started.
        """
        busy, ticks = (True, 0) if group is None else _processor_use(group)
        # A poll now and then, of a service that does not answer, is no work.
        if busy or ticks > self._ticks + _IDLE_TICKS:
            self._since, self._ticks = time.monotonic(), ticks
        return time.monotonic() - self._since


def _processor_use(group: int) -> Tuple[bool, int]:
    """Return whether a process of the group runs or could, and the processor time of them all."""
    busy, ticks, processes = False, 0, 0
    for pid in filter(str.isdigit, os.listdir("/proc") if sys.platform == "linux" else ()):
        with contextlib.suppress(OSError):  # it has ended
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
            if int(fields[2]) == group:
                processes += 1
                busy = busy or fields[0] in "RD"
                ticks += sum(map(int, fields[11:13]))
    return busy or not processes, ticks


def import_what_probes_need() -> None:
    """Import wandb, torch, the catalogue, and what wandb imports only once there is a run."""
    for name in ("wandb", "torch"):
        # A probe that needs it says what is wrong.
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    importlib.import_module(f"{__package__}.catalogue")
    for name in _modules_of_a_run():
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _modules_of_a_run() -> List[str]:
    """Return the names of the modules that a fork of this process imports for a run."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            before = set(sys.modules)
            with offline_run():
                sender.send([name for name in list(sys.modules) if name not in before])
        finally:
            os._exit(0)
    sender.close()
    names: List[str] = []
    with contextlib.suppress(EOFError):  # no run can be started; the probes say why
        names = receiver.recv() if receiver.poll(_RUN_SECONDS) else names
    kill(pid)
    os.waitpid(pid, 0)
    return names
