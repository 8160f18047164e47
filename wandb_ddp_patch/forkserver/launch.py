"""spawn(): torch.multiprocessing.spawn's signature, a forkserver's speed.

A spawned worker takes seconds to import torch, wandb and the script. Here a
forkserver imports them once (see preload.py), and each worker is forked from it.
torch's own code starts the workers and reports their errors.
https://docs.python.org/3/library/multiprocessing.html#contexts-and-start-methods
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import sys
import warnings
from multiprocessing.process import BaseProcess
from typing import Any, Callable, List, Optional, Tuple

from .. import _lifecycle
from ..runs import state
from . import selftest, server
from .arguments import pickling_problem
from .bootstrap import WorkerTarget
from .parent_watch import ParentHandle

# Each tensor on the CPU is a file descriptor.
_TOO_MANY_TENSORS = "the arguments contain more tensors than a forkserver can pass on"


def spawn(
    fn: Callable[..., object],
    args: Tuple[object, ...],
    nprocs: int,
    join: bool,
    daemon: bool,
    start_method: Optional[str],
    patched: bool,
) -> Any:
    """See :func:`wandb_ddp_patch.spawn`."""
    method = start_method or server.default_method()
    if patched:
        _check_start_method(method)
    start_processes = _torch_start_processes()
    if not patched:
        return start_processes(fn, args, nprocs, join, daemon, start_method or "spawn")
    if method != "fork":
        _check_importable(fn)
        _check_picklable(fn, args)
    run = _current_run()
    # A fork has all objects of this process as they are: its run is not pickled.
    sent = run if method == "fork" or _is_picklable(run) else None
    with ParentHandle() as parent:

        def start(method: str) -> Any:
            target = WorkerTarget(fn, method, sent, parent)
            return start_processes(target, args, nprocs, False, daemon, method)

        context = _start(start, method)
    context.join = functools.partial(_join, context.join, run)
    while join and not context.join():
        pass
    return None if join else context


def _start(start: Callable[[str], Any], method: str) -> Any:
    problem = selftest.forkserver_problem() if method == "forkserver" else None
    if problem is None:
        others = multiprocessing.active_children()
        try:
            return start(method)
        except (OSError, ValueError) as error:
            if method != "forkserver":
                raise
            problem = start_problem(error, others)
    _warn_of_spawn(problem)
    return start("spawn")


def start_problem(error: Exception, others: List[BaseProcess]) -> str:
    """Return why the forkserver has started no worker.

    Args:
        error: What starting the workers has raised.
        others: The processes that there were before.

    Raises:
        Exception: This one, where spawning the workers would be wrong: the user's arguments have
            raised it, or some workers have started, whose function must not be called again.
    """
    if "too many fds" in str(error):
        return _TOO_MANY_TENSORS
    if isinstance(error, OSError) and set(multiprocessing.active_children()) <= set(others):
        return f"the forkserver can't be reached: {error}"
    raise error


def _torch_start_processes() -> Callable[..., Any]:
    try:
        from torch.multiprocessing import start_processes
    except ImportError:
        raise ImportError("wandb_ddp_patch.spawn() needs PyTorch: pip install torch") from None
    # After use_forkserver(), this is ours: see unchanged/start_processes.py.
    upstream: Callable[..., Any] = getattr(start_processes, "torchs_own", start_processes)
    return upstream


def _warn_of_spawn(problem: str) -> None:
    warnings.warn(
        "wandb_ddp_patch.spawn() starts its workers by spawn, which is many times slower, because"
        f" {problem}.",
        RuntimeWarning,
        stacklevel=5,
    )


def _check_start_method(method: str) -> None:
    known = multiprocessing.get_all_start_methods()
    if method not in known:
        raise ValueError(
            f"{sys.platform} has no start method {method!r}; it has {', '.join(sorted(known))}"
        )


def _check_importable(fn: Callable[..., object]) -> None:
    """Raise at once what else each worker would raise, without saying where to put it."""
    name = getattr(fn, "__qualname__", fn)
    if is_interactive(fn):
        where = f"{name} is defined in a notebook's cell or at a prompt"
    elif _is_from_stdin():
        where = "this script is read from standard input"
    else:
        return
    raise ValueError(
        f"{where}, where a new process can't import it. Move it to a module and import that, or"
        ' pass start_method="fork"'
    )


def is_interactive(fn: Callable[..., object]) -> bool:
    """Return True if a function is defined in a notebook's cell, or the like."""
    main = sys.modules["__main__"]
    has_file = hasattr(main, "__file__") or getattr(main, "__spec__", None) is not None
    return getattr(fn, "__module__", None) == "__main__" and not has_file


def _is_from_stdin() -> bool:
    # Python gives such a script a file's name, "<stdin>", which each new process tries to run.
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    return spec is None and file == "<stdin>" and not os.path.exists(file)


def _check_picklable(fn: Callable[..., object], args: Tuple[object, ...]) -> None:
    """Raise it before a forkserver and workers are started, which takes seconds."""
    problem = pickling_problem(fn, args)
    if problem is not None:
        raise ValueError(
            f"{problem}. Define functions and classes at the top level of a module, and create what"
            ' can\'t be pickled in the workers; or pass start_method="fork"'
        )


# --- the parent's run -------------------------------------------------------


def _current_run() -> Any:
    return getattr(sys.modules.get("wandb"), "run", None)


def _is_picklable(run: Any) -> bool:
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


def _join(join: Callable[..., bool], run: Any, *args: object, **kwargs: object) -> bool:
    try:
        return join(*args, **kwargs)
    except Exception:  # torch's two, that say how a worker ended
        owner = state.get_state(run) if run is not None else None
        if isinstance(owner, state.OwnerState) and owner.exit_code is None:
            owner.exit_code = 1
            # One for all runs, and at the end: it must come before wandb's own hook.
            _lifecycle.at_interpreter_exit(_finish_failed)
        raise


def _finish_failed() -> None:
    # wandb's own hook knows only how this process ends.
    run = _current_run()
    owner = state.get_state(run) if run is not None else None
    if isinstance(owner, state.OwnerState) and owner.exit_code:
        run.finish(exit_code=owner.exit_code)
