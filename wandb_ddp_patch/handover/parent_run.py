"""The run that was active where this process was started, for a worker that was passed nothing.

It travels in multiprocessing's own record of a process, ``_config``, which also carries whether
the process is a daemon, and which a worker's own workers inherit. As bytes: a worker that never
asks for it does not import wandb.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import sys
from importlib.machinery import PathFinder
from typing import Any, Callable, List, Optional, Tuple

from .. import _lifecycle, _multiprocessing
from ..runs.globals import set_global_run

_KEY = "_wandb_ddp_patch_run"
# The process that was handed none, and how many modules it had then.
_none_in: Tuple[int, int] = (0, 0)


def offer() -> None:
    """Hand the current run to each process that this one starts from now on."""
    for module in _process_modules():
        start = module.BaseProcess.start
        if not hasattr(start, "_without_run"):
            module.BaseProcess.start = _with_run(start, module.__name__.rpartition(".")[0])


def _process_modules() -> List[Any]:
    return _multiprocessing.modules("process", "BaseProcess", "current_process")


def _with_run(upstream: Callable[[Any], None], package: str) -> Callable[[Any], None]:
    @functools.wraps(upstream)
    def start(self: Any) -> None:
        payload = None
        # Whatever is amiss with the run, the process starts as it would without.
        with contextlib.suppress(Exception):
            payload = None if _forks(self, package) else _current_payload()
        if payload is None:
            return upstream(self)
        self._config[_KEY] = payload
        try:
            return upstream(self)
        finally:
            self._config.pop(_KEY, None)

    start._without_run = upstream  # type: ignore[attr-defined]
    return start


def _forks(process: Any, package: str) -> bool:
    """Return True if a process is started by a fork of this one, which inherits the run."""
    method = getattr(process, "_start_method", None)
    if method is None:  # a plain Process: as is the default, or has been set
        method = sys.modules[f"{package}.context"]._default_context.get_start_method()
    return bool(method == "fork")


def _current_payload() -> Optional[bytes]:
    run = getattr(sys.modules.get("wandb"), "run", None)
    if run is None:
        return None
    payload = pickle.dumps(run)
    package = __name__.split(".")[0]
    # A worker gets this process's sys.path. Where the package is not found by that, to load
    # anything of it would end the worker.
    if PathFinder.find_spec(package, sys.path) is None:
        return payload
    handed: bytes = sys.modules[package]._ParentRun(payload)
    return handed


def forget() -> None:
    """Let go of what this process was handed: it has a run of its own."""
    for module in _process_modules():
        module.current_process()._config.pop(_KEY, None)


def adopt() -> Any:
    """Make the run that this process was handed its current one.

    Returns:
        The run; None where there is none.
    """
    global _none_in
    here = os.getpid(), len(sys.modules)
    if here == _none_in:  # to look again, in a loop that logs in vain, takes half a millisecond
        return None
    for module in _process_modules():
        payload = module.current_process()._config.get(_KEY)
        if payload is not None:
            return _load(payload)
    _none_in = here
    return None


def _load(payload: bytes) -> Any:
    try:
        run = pickle.loads(payload)
    except Exception as error:
        # Its config may hold what can't be imported here. That is no reason for another error
        # than that of wandb, which scripts expect.
        forget()
        _lifecycle.termwarn(
            "The run of the process that started this one can't be used here:"
            f" {type(error).__name__}: {error}"
        )
        return None
    set_global_run(run)
    return run
