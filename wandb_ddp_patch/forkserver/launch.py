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
from typing import Any, Callable, List, Optional, Tuple

from .. import _lifecycle
from ..runs import state
from . import selftest, server
from .arguments import pickling_problem
from .bootstrap import WorkerTarget
from .parent_watch import ParentHandle

# Each tensor on the CPU is a file descriptor.
TOO_MANY_FDS = "the arguments hold more tensors than a forkserver's workers can be handed"


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
    method = start_method or server.default_method()
    if patched:
        _refuse_what_is_not_here(method)
    start_processes = _torchs_own()
    if not patched:
        return start_processes(fn, args, nprocs, join, daemon, start_method or "spawn")
    if method != "fork":
        _refuse_what_is_in_no_file(fn)
        _refuse_what_cannot_be_sent(fn, args)
    run = _current_run()
    sent = run if method == "fork" or _can_be_sent(run) else None
    with ParentHandle() as parent:

        def start(method: str) -> Any:
            job = WorkerTarget(fn, method, sent, parent)
            return start_processes(job, args, nprocs, False, daemon, method)

        context = _started(start, method)
    context.join = functools.partial(_join, context.join, run)
    while join and not context.join():
        pass
    return None if join else context


def _started(start: Callable[[str], Any], method: str) -> Any:
    why = selftest.forkserver_problem() if method == "forkserver" else None
    if why is None:
        others = multiprocessing.active_children()
        try:
            return start(method)
        except (OSError, ValueError) as error:
            if method != "forkserver":
                raise
            why = start_problem(error, others)
    _say_why(why)
    return start("spawn")


def start_problem(error: Exception, others: List[Any]) -> str:
    """Say why the forkserver has started no worker. Raise what is no reason to try otherwise.

    Args:
        others: The processes that there were before.
    """
    if "too many fds" in str(error):
        return TOO_MANY_FDS
    if isinstance(error, OSError) and set(multiprocessing.active_children()) <= set(others):
        return f"the forkserver can't be reached: {error}"
    raise error


def _torchs_own() -> Any:
    try:
        from torch.multiprocessing import start_processes
    except ImportError:
        raise ImportError("wandb_ddp_patch.spawn() needs PyTorch: pip install torch") from None
    return getattr(start_processes, "torchs_own", start_processes)  # see unchanged.py


def _say_why(why: str) -> None:
    warnings.warn(
        f"wandb_ddp_patch.spawn() starts its workers with spawn, many times slower, because {why}.",
        RuntimeWarning,
        stacklevel=5,
    )


def _refuse_what_is_not_here(method: str) -> None:
    known = multiprocessing.get_all_start_methods()
    if method not in known:
        raise ValueError(
            f"{sys.platform} has no start method {method!r}; it has {', '.join(sorted(known))}"
        )


def _refuse_what_is_in_no_file(fn: Callable[..., object]) -> None:
    """Say at once what else each worker would say of itself, and not where to put it."""
    name = getattr(fn, "__qualname__", fn)
    if is_in_no_file(fn):
        where = f"{name} is defined in a notebook's cell, or at a prompt,"
    elif _is_from_standard_input():
        where = "this script is read from standard input,"
    else:
        return
    raise ValueError(
        f"{where} from where no new process can import it. Put it into a module, and import"
        ' that; or pass start_method="fork"'
    )


def is_in_no_file(fn: Callable[..., object]) -> bool:
    """Say whether a function is of a notebook's cell, or the like."""
    main = sys.modules["__main__"]
    has_file = hasattr(main, "__file__") or getattr(main, "__spec__", None) is not None
    return getattr(fn, "__module__", None) == "__main__" and not has_file


def _is_from_standard_input() -> bool:
    # Python calls that a file, which each new process then tries to run.
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    return spec is None and file == "<stdin>" and not os.path.exists(file)


def _refuse_what_cannot_be_sent(fn: Callable[..., object], args: Tuple[Any, ...]) -> None:
    """Say it before a forkserver and workers are started, which takes seconds."""
    why = pickling_problem(fn, args)
    if why is not None:
        raise ValueError(
            f"{why}. Put functions and classes at the top of a module, and have the workers make"
            ' what can\'t be pickled; or pass start_method="fork"'
        )


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
        owned = state.get_state(run) if run is not None else None
        if isinstance(owned, state.OwnerState) and owned.exit_code is None:
            owned.exit_code = 1
            # One for all runs, and at the end: it must come before wandb's own hook.
            _lifecycle.at_interpreter_exit(_finish_failed)
        raise


def _finish_failed() -> None:
    # wandb's own hook knows only how this process ends.
    run = _current_run()
    owned = state.get_state(run) if run is not None else None
    if isinstance(owned, state.OwnerState) and owned.exit_code:
        run.finish(exit_code=owned.exit_code)
