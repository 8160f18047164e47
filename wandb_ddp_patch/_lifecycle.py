"""The life of a process: what this package does in a fork, and when a process ends.

Each module registers its own part; in which order they run, and why, is said here alone. Also
the two kinds of warnings that such code gives, where nobody is there to catch an exception.
"""

from __future__ import annotations

import atexit
import contextlib
import enum
import functools
import os
import sys
import threading
import warnings
from typing import Any, Callable, Dict, List, Optional, TypeVar

from . import _multiprocessing

_Hook = Callable[[], object]
_HookT = TypeVar("_HookT", bound=_Hook)

# --- in a fork ------------------------------------------------------------------


class ForkStage(enum.Enum):
    """When something is done in the child of a fork: stages one after the other."""

    # New locks in the place of those that another thread of the parent may hold: it does not
    # exist in the child, so nobody would ever release them. First, for those that the stages
    # after it may take: taking off wandb's exit hooks needs wandb's own locks, for one. A module
    # that alone takes its lock renews it when it releases the rest.
    RENEW_LOCKS = 0
    # Connections, files and threads that are the parent's. Within a stage, by registration.
    RELEASE = 1
    # Runs become a worker's, with new transports. Last: what the stage before clears must not
    # be theirs.
    INHERIT_RUNS = 2


_in_child: Dict[ForkStage, List[_Hook]] = {stage: [] for stage in ForkStage}


def in_forked_child(stage: ForkStage = ForkStage.RELEASE) -> Callable[[_HookT], _HookT]:
    """Decorate a function that is called in the child of each fork from now on.

    A module that is not loaded has nothing to let go of: hence each registers when it is read.
    """

    def register(function: _HookT) -> _HookT:
        _in_child[stage].append(function)
        return function

    return register


def around_forks(before: _Hook, after_in_parent: _Hook) -> None:
    """Call functions before each fork, and after it in the parent.

    Call it as late as possible, when there is a run: the system calls what was registered last
    first. Logging's own hook takes logging's lock for the fork; were ours called while it is held,
    it would wait for a thread that attaches a run, which waits for that lock to log.
    """
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(before=before, after_in_parent=after_in_parent)


def _after_fork_in_child() -> None:
    for stage in ForkStage:
        for function in _in_child[stage]:
            # A fault in one must keep neither the fork nor the rest from going on.
            with contextlib.suppress(Exception):
                function()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


# --- when a process ends --------------------------------------------------------

# A process can end in four ways. The interpreter's end runs what atexit has, the last registered
# first; multiprocessing's finalizers are among that. So what is registered for both may be called
# twice, and in another order than that of the numbers below: what closes something flushes it
# itself. A worker that multiprocessing, or a copy of it, has forked runs the finalizers alone, by
# these numbers, the highest first. os._exit, by which such a worker ends, runs neither: where a
# program calls it itself, see before_os_exit. A signal that kills runs nothing: so rows are
# flushed before a worker returns a result, see runs/flush.py.

# First of all: what follows may take long, and a pool kills workers that do.
FLUSH_ROWS = 100
# Workers hear that a run is finished before wandb finishes it: rows that they log meanwhile
# would be lost without a word. As early as the rows, because neither needs the other.
CLOSE_PUBLISHED_RUNS = 100
# multiprocessing would end the worker without the hook by which wandb finishes runs.
FINISH_OWN_RUNS = 90
# Last: until then, rows may still go through the tunnel that this closes.
CLOSE_TUNNELS = 50


class _ExitHook:
    """A function that is called when one process ends, and not when its forks do.

    They inherit what atexit has; a fork that needs the function registers it anew.
    """

    def __init__(self, function: _Hook) -> None:
        self.function = function
        # The process in which atexit has it; and in which multiprocessing has it.
        self.interpreter_pid = self.worker_pid = 0

    def __call__(self) -> None:
        if os.getpid() in (self.interpreter_pid, self.worker_pid):
            self.function()


_exit_hooks: Dict[_Hook, _ExitHook] = {}


def at_exit(function: _Hook, priority: int, anew: bool = False) -> None:
    """Call a function when this process ends, whether as a worker or by itself.

    Args:
        priority: One of the numbers above.
        anew: Have it come before what atexit was given since the function was registered. Not
            for each run: up to Python 3.12, what atexit has forgotten keeps its place in memory.
    """
    at_worker_exit(function, priority)
    if anew or _exit_hooks[function].interpreter_pid != os.getpid():
        at_interpreter_exit(function)


def at_worker_exit(function: _Hook, priority: int) -> None:
    """Call a function when this process ends, if multiprocessing or a copy of it started it."""
    hook = _exit_hooks.setdefault(function, _ExitHook(function))
    if hook.worker_pid != os.getpid():
        hook.worker_pid = os.getpid()
        for module in _multiprocessing.modules("util", "Finalize", "_exit_function"):
            module.Finalize(None, hook, exitpriority=priority)


def at_interpreter_exit(function: _Hook) -> None:
    """Call a function when this interpreter ends, before all that atexit has been given."""
    hook = _exit_hooks.setdefault(function, _ExitHook(function))
    hook.interpreter_pid = os.getpid()
    # Where it is, it may come too late; and a fork has inherited it.
    atexit.unregister(hook)
    atexit.register(hook)


# The modules by which multiprocessing, and its copies, end their forks.
_LIBRARIES = (".pool", ".popen_fork", ".forkserver")
_MARK = "_calls_exit_hooks"  # our os._exit
_before_os_exit: List[Callable[[Optional[int]], None]] = []


def before_os_exit(function: Callable[[Optional[int]], None]) -> None:
    """Call a function before os._exit, by which forks end, and workers of billiard's pools.

    Args:
        function: Called in the main thread, with the exit code, 0 or 1, where multiprocessing
            or a copy of it ends its worker; with None where anybody else ends a process, which
            should take no time then.
    """
    if function not in _before_os_exit:
        _before_os_exit.append(function)
    upstream: Any = os._exit
    if hasattr(upstream, _MARK):  # also where a fork has inherited it
        return

    @functools.wraps(upstream)
    def _exit(status: int) -> None:
        # Whatever happens, the process ends.
        try:
            # Not where a watchdog's thread ends a process that hangs.
            if threading.current_thread() is threading.main_thread():
                code = None
                if sys._getframe(1).f_globals.get("__name__", "").endswith(_LIBRARIES):
                    # billiard's number for a worker that has done its share of tasks.
                    recycled = getattr(sys.modules.get("billiard.pool"), "EX_RECYCLE", 0)
                    code = int(status not in (0, recycled))
                for each in _before_os_exit:
                    each(code)
        finally:
            upstream(status)

    setattr(_exit, _MARK, True)
    os._exit = _exit  # type: ignore[assignment]


# --- warnings that raise nothing ------------------------------------------------


def warn(message: str, stacklevel: int = 1) -> None:
    """Issue a RuntimeWarning of this package's.

    Args:
        stacklevel: As :func:`warnings.warn` takes it: 1 is the line that calls this.
    """
    try:
        warnings.warn(f"wandb_ddp_patch: {message}", RuntimeWarning, stacklevel=stacklevel + 1)
    except RuntimeWarning:
        # The user turned warnings into errors. An import, or a script that works without us,
        # must not fail for ours.
        if sys.stderr is not None:
            sys.stderr.write(f"wandb_ddp_patch: {message}\n")


def termwarn(message: str, repeat: bool = True) -> None:
    """Print a warning about a run where wandb prints its own; needs wandb to be loaded."""
    wandb: Any = sys.modules["wandb"]
    wandb.termwarn(message, repeat=repeat)
