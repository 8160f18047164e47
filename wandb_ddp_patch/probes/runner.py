"""Runs probes in other processes, each with a time limit; each process runs many."""

from __future__ import annotations

import collections
import dataclasses
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Dict, Iterable, List, Mapping, Optional

from .catalogue import PROBES
from .interpreter import Process
from .verdict import Verdict


def run(name: str, *, shim: bool, python: str = sys.executable, timeout: float = 120) -> Verdict:
    """Run one probe in a process of its own; see :func:`run_all`."""
    return run_all([name], shim=shim, python=python, timeout=timeout)[name]


def run_all(
    names: Iterable[str],
    *,
    shim: bool,
    python: str = sys.executable,
    timeout: float = 120,
    jobs: int = 1,
    done: Callable[[Verdict], object] = bool,
) -> Dict[str, Verdict]:
    """Run probes in other processes; each process runs many, and imports wandb once.

    Args:
        names: Keys of ``PROBES``.
        shim: Whether the patches are on.
        python: The interpreter whose wandb is probed. This package need not be
            installed there.
        timeout: Seconds after which a probe counts as hanging. Its process is
            ended, with all that it has started; another one goes on.
        jobs: How many processes run at once.
        done: Called with each verdict as it comes, from any thread.

    Returns:
        The verdicts, in the order of the names.
    """
    names = list(names)
    work = _Work(names, shim, python, timeout, done)
    _at_work.append(work)
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for future in [pool.submit(work.go_on) for _ in range(min(jobs, len(names)))]:
                future.result()
        finally:
            work.end()
            _at_work.remove(work)
    return {name: work.verdicts[name] for name in names if name in work.verdicts}


def again(
    verdicts: Mapping[str, Verdict],
    *,
    shim: bool,
    python: str = sys.executable,
    timeout: float = 120,
    done: Callable[[Verdict], object] = bool,
) -> Dict[str, Verdict]:
    """Run the probes that hung once more, one after the other, before they count.

    On a busy machine, a probe may run into its limit for no fault: old services fail
    to start now and then where several start at once. What hangs by itself hangs again.

    Args:
        verdicts: What :func:`run_all` has returned, called with the same arguments.
        shim: Whether the patches are on.
        python: The interpreter whose wandb is probed.
        timeout: Seconds after which a probe counts as hanging.
        done: Called with each new verdict as it comes.

    Returns:
        All the verdicts. The reason of a new one says that it is one.
    """
    found = dict(verdicts)

    def replace(verdict: Verdict) -> None:
        reason = verdict.reason + (", twice" if verdict.hangs else ", but it hung at first")
        found[verdict.name] = dataclasses.replace(verdict, reason=reason)
        done(found[verdict.name])

    hung = [name for name, verdict in verdicts.items() if verdict.hangs]
    run_all(hung, shim=shim, python=python, timeout=timeout, done=replace)
    return found


def stop() -> None:
    """End all that :func:`run_all` is running, in all threads; for Ctrl-C."""
    for work in list(_at_work):
        work.end()


class _Work:
    """What one run_all() has still to ask, whom it asks, and what it was told."""

    def __init__(
        self,
        names: Iterable[str],
        shim: bool,
        python: str,
        timeout: float,
        done: Callable[[Verdict], object],
    ) -> None:
        self.verdicts: Dict[str, Verdict] = {}
        self._todo = collections.deque(names)
        self._processes: List[Process] = []
        self._shim, self._python, self._timeout, self._done = shim, python, timeout, done

    def go_on(self) -> None:
        """Take names and ask for their verdicts until none is left; in each thread."""
        process: Optional[Process] = None
        while self._todo:
            try:
                name = self._todo.popleft()
            except IndexError:  # another thread was faster
                break
            if process is not None and PROBES[name].first:
                self._drop(process)
                process = None
            if process is None:
                process = Process(self._python, self._shim)
                self._processes.append(process)
            verdict, usable = process.ask(name, self._timeout)
            if not usable:
                self._drop(process)
                process = None
            self.verdicts[name] = verdict
            self._done(verdict)

    def _drop(self, process: Process) -> None:
        self._processes.remove(process)
        process.kill()

    def end(self) -> None:
        """End all processes; threads that wait for one are told that it died."""
        self._todo.clear()
        for process in list(self._processes):
            process.kill()


_at_work: List[_Work] = []  # of each run_all() that is not over
