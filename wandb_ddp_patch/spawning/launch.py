"""spawn(): torch.multiprocessing.spawn's signature, a forkserver's speed.

A spawned worker takes seconds to import torch, wandb and the script. Here a
forkserver imports them once (see preload.py), and each worker is forked from it.
torch's own code starts the workers and reports their errors.
https://docs.python.org/3/library/multiprocessing.html#contexts-and-start-methods
"""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import pickle
import sys
import warnings
from typing import Any, Callable, Optional, Tuple

from ..borrowed import link
from . import server, trial
from .arrival import Job
from .parent import Parent

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
    _refuse_what_is_in_no_file(fn, method)
    run = _current_run()
    sent = run if method == "fork" or _can_be_sent(run) else None
    with Parent() as parent:

        def start(method: str) -> Any:
            job = Job(fn, method, sent, parent)
            return start_processes(job, args, nprocs, False, daemon, method)

        why = trial.why_not_fork() if method == "forkserver" else None
        if why is None:
            try:
                context = start(method)
            except ValueError as error:
                if method != "forkserver" or not has_too_many_fds(error):
                    raise
                why = TOO_MANY_FDS
        if why is not None:
            _say_why(why)
            context = start("spawn")
    context.join = functools.partial(_join, context.join, run)
    while join and not context.join():
        pass
    return None if join else context


def has_too_many_fds(error: ValueError) -> bool:
    """Say whether a forkserver has refused a worker's arguments; none has started yet."""
    return "too many fds" in str(error)


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
        stacklevel=4,
    )


def _refuse_what_is_not_here(method: str) -> None:
    known = multiprocessing.get_all_start_methods()
    if method not in known:
        raise ValueError(
            f"{sys.platform} has no start method {method!r}; it has {', '.join(sorted(known))}"
        )


def _refuse_what_is_in_no_file(fn: Callable[..., object], method: str) -> None:
    """Say at once what else each worker would say of itself, and not where to put it."""
    if method == "fork" or not is_in_no_file(fn):
        return
    raise ValueError(
        f"{getattr(fn, '__qualname__', fn)} is defined in a notebook's cell, or at a prompt, from"
        " where no new process can import it. Put it into a module, and import that; or pass"
        ' start_method="fork"'
    )


def is_in_no_file(fn: Callable[..., object]) -> bool:
    """Say whether a function is of a notebook's cell, or the like."""
    main = sys.modules["__main__"]
    has_file = hasattr(main, "__file__") or getattr(main, "__spec__", None) is not None
    return getattr(fn, "__module__", None) == "__main__" and not has_file


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
        owned = link.of(run) if run is not None else None
        if isinstance(owned, link.Owned) and owned.exit_code is None:
            owned.exit_code = 1
            # One for all runs, and at the end: it must come before wandb's own hook.
            atexit.unregister(_finish_failed)
            atexit.register(_finish_failed)
        raise


def _finish_failed() -> None:
    # wandb's own hook knows only how this process ends.
    run = _current_run()
    owned = link.of(run) if run is not None else None
    if isinstance(owned, link.Owned) and owned.exit_code:
        run.finish(exit_code=owned.exit_code)
