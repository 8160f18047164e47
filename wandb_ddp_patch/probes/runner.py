"""Runs probes in subprocesses, each probe with a time limit; one subprocess runs many."""

from __future__ import annotations

import collections
import dataclasses
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Dict, Iterable, List, Mapping, Optional, Union

from . import forks
from .catalogue import PROBES
from .interpreter import ForkingInterpreter, Interpreter
from .verdict import Verdict


def run(name: str, *, patched: bool, python: str = sys.executable, timeout: float = 120) -> Verdict:
    """Run one probe in a subprocess and return its verdict; see :func:`run_all`."""
    return run_all([name], patched=patched, python=python, timeout=timeout)[name]


def run_all(
    names: Iterable[str],
    *,
    patched: bool,
    python: str = sys.executable,
    timeout: float = 120,
    jobs: int = 1,
    forked: bool = False,
    idle: float = math.inf,
    done: Callable[[Verdict], object] = bool,
) -> Dict[str, Verdict]:
    """Run probes in subprocesses, each of which runs many and imports wandb once.

    Args:
        names: Keys of ``PROBES``.
        patched: Whether the patches are on.
        python: The interpreter whose wandb is probed. It need not have this package.
        timeout: Seconds after which a probe counts as hanging, and is killed with all that it
            has started.
        jobs: The number of probes at a time.
        forked: Whether probes, and most of their workers, are forks of a process that has
            imported wandb and torch, where that is possible. It takes a part of the time.
        idle: Seconds without work of a forked probe's processes, after which it counts as hanging.
        done: Called with each verdict as it comes, from any thread.

    Returns:
        The verdicts, in the order of the names.
    """
    names = list(names)
    forked = forked and forks.available()
    batch = _Batch(names, _Options(patched, python, timeout, forked, idle, done))
    _active.append(batch)
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for future in [pool.submit(batch.work) for _ in range(min(jobs, len(names)))]:
                future.result()
        finally:
            batch.stop()
            _active.remove(batch)
    return {name: batch.verdicts[name] for name in names if name in batch.verdicts}


def again(
    verdicts: Mapping[str, Verdict],
    *,
    patched: bool,
    python: str = sys.executable,
    timeout: float = 120,
    done: Callable[[Verdict], object] = bool,
) -> Dict[str, Verdict]:
    """Run the probes that hung a second time, one after the other, before they count.

    On a busy machine, a probe may hit its time limit where there is no fault: old services
    fail to start now and then where several start at once. A true hang happens again.

    Args:
        verdicts: What :func:`run_all` returned for the same arguments.
        patched: Whether the patches are on.
        python: The interpreter whose wandb is probed.
        timeout: Seconds after which a probe counts as hanging.
        done: Called with each new verdict as it comes.

    Returns:
        All the verdicts, old and new. The reason of a new one says that it is the second.
    """
    found = dict(verdicts)

    def replace(verdict: Verdict) -> None:
        reason = verdict.reason + (", twice" if verdict.hangs else ", but it hung at first")
        found[verdict.name] = dataclasses.replace(verdict, reason=reason)
        done(found[verdict.name])

    hung = [name for name, verdict in verdicts.items() if verdict.hangs]
    run_all(hung, patched=patched, python=python, timeout=timeout, done=replace)
    return found


def stop() -> None:
    """Stop every :func:`run_all`, in all threads; for Ctrl-C."""
    for batch in list(_active):
        batch.stop()


@dataclasses.dataclass(frozen=True)
class _Options:
    """What run_all() was called with."""

    patched: bool
    python: str
    timeout: float
    forked: bool
    idle: float
    done: Callable[[Verdict], object]


class _Batch:
    """One run_all(): the names that are left, the subprocesses, and the verdicts so far."""

    def __init__(self, names: Iterable[str], options: _Options) -> None:
        self.verdicts: Dict[str, Verdict] = {}
        # Those that wait first: others run meanwhile.
        self._names = collections.deque(sorted(names, key=lambda name: not PROBES[name].waits))
        self._options = options
        self._is_stopped = False
        self._interpreters: List[Union[Interpreter, ForkingInterpreter]] = []
        self._forking: Optional[ForkingInterpreter] = None
        if options.forked:
            self._forking = ForkingInterpreter(options.python, options.patched)
            self._interpreters.append(self._forking)

    def work(self) -> None:
        """Run probes until no name is left; called in each thread."""
        interpreter: Union[Interpreter, ForkingInterpreter, None] = self._forking
        while self._names:
            try:
                name = self._names.popleft()
            except IndexError:  # another thread was faster
                break
            if isinstance(interpreter, Interpreter) and PROBES[name].first:
                self._drop(interpreter)
                interpreter = None
            if interpreter is None:
                interpreter = Interpreter(self._options.python, self._options.patched)
                self._interpreters.append(interpreter)
            if isinstance(interpreter, ForkingInterpreter):
                verdict, usable = interpreter.run(name, self._options.timeout, self._options.idle)
                if not usable and not self._is_stopped:
                    # No probe ends it: nothing can be forked here. Where temporary files have long
                    # names, the forkserver's socket has none that the system takes.
                    self._names.append(name)
                    self._forking = interpreter = None
                    continue
            else:
                verdict, usable = interpreter.run(name, self._options.timeout)
                if not usable:
                    self._drop(interpreter)
                    interpreter = None
            self.verdicts[name] = verdict
            self._options.done(verdict)

    def _drop(self, interpreter: Interpreter) -> None:
        self._interpreters.remove(interpreter)
        interpreter.kill()

    def stop(self) -> None:
        """Kill all subprocesses; a thread that waits for one gets the verdict that it died."""
        self._is_stopped = True
        self._names.clear()
        for interpreter in list(self._interpreters):
            interpreter.kill()


_active: List[_Batch] = []  # one for each run_all() that is running
