"""WANDB_DDP_PATCH_SPAWN and use_forkserver(): torch's own spawn, from the forkserver.

The function put in place of torch's start_processes looks whether a forkserver's workers can be
what spawned ones are. If so, it calls torch's with a start method by which they come from there;
else with what it was called with.
"""

from __future__ import annotations

import functools
import inspect
import multiprocessing
import os
import sys
from multiprocessing import spawn
from types import ModuleType
from typing import Any, Callable, List, Mapping, Optional, Set

from ... import _lifecycle
from ..._patching import IncompatibleError, Patch, State, Undo, set_attribute
from .. import launch, selftest, server
from . import process

VARIABLE = "WANDB_DDP_PATCH_SPAWN"
_MODULE, _PACKAGE = "torch.multiprocessing.spawn", "torch.multiprocessing"
_NAME = "start_processes"
_warned: Set[str] = set()


def apply(asked: Optional[str]) -> None:
    """Apply the patch.

    Args:
        asked: The value of the environment's variable; None where use_forkserver() was called.
    """
    if asked not in (None, "forkserver"):
        _warn_once(f"{VARIABLE} is {asked!r}, which is ignored: set it to forkserver, or unset it")
        return
    PATCH.apply()
    if PATCH.state is State.SKIPPED:
        _warn_once(f"torch starts its workers as before, because {PATCH.reason}")


def _warn_once(message: str) -> None:
    # The parent of a worker has warned already.
    if message not in _warned and not server.is_importing_main():
        _warned.add(message)
        _warn(message)


def revert() -> None:
    """Revert the patch."""
    PATCH.revert()


def _install(undo: List[Undo]) -> None:
    module, package = sys.modules[_MODULE], sys.modules[_PACKAGE]
    upstream = getattr(module, _NAME, None)
    if not callable(upstream):
        raise IncompatibleError(f"{_MODULE} has no {_NAME}")
    if not {"fn", "start_method"} <= set(inspect.signature(upstream).parameters):
        raise IncompatibleError(f"{_MODULE}.{_NAME} takes no fn, or no start_method")
    ours = _make_start_processes(upstream)
    process.register_start_method()
    undo.append(process.unregister_start_method)
    undo.append(set_attribute(module, _NAME, ours))
    # The package copies the name from the module. Where the module has just been imported, that
    # happens after this.
    if getattr(package, _NAME, None) is upstream:
        setattr(package, _NAME, ours)
    undo.append(functools.partial(_restore, package, ours, upstream))


def _restore(package: ModuleType, ours: object, upstream: object) -> None:
    if getattr(package, _NAME, None) is ours:
        setattr(package, _NAME, upstream)


def _is_fixed() -> bool:
    return hasattr(getattr(sys.modules[_MODULE], _NAME), "torchs_own")


PATCH = Patch(
    modules=(_MODULE,),
    name=_NAME,
    install=_install,
    is_fixed=_is_fixed,
    why="workers that torch spawns come from a forkserver that has imported the script",
    since="",
)


def _make_start_processes(upstream: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(upstream)

    @functools.wraps(upstream)
    def start_processes(*args: object, **kwargs: object) -> Any:
        try:
            call = signature.bind(*args, **kwargs)
        except TypeError:
            return upstream(*args, **kwargs)  # which raises it
        call.apply_defaults()
        if _is_left_to_torch(call.arguments):
            return upstream(*args, **kwargs)
        problem = _problem()
        if problem is None:
            others = multiprocessing.active_children()
            try:
                call.arguments["start_method"] = process.METHOD
                return upstream(*call.args, **call.kwargs)
            except (OSError, ValueError) as error:
                problem = launch.start_problem(error, others)
        _warn(f"torch's workers are spawned, which is many times slower, because {problem}")
        return upstream(*args, **kwargs)

    start_processes.torchs_own = upstream  # type: ignore[attr-defined]
    return start_processes


def _is_left_to_torch(arguments: Mapping[str, Any]) -> bool:
    """Return True if torch is to start the workers by itself, without a warning."""
    return (
        PATCH.state is not State.APPLIED  # somebody has kept ours
        or arguments["start_method"] != "spawn"
        or server.default_method() != "forkserver"
        or getattr(sys, "frozen", False)
        # A worker's workers: each worker would start a forkserver of its own.
        or server.is_importing_main()
        or multiprocessing.parent_process() is not None
        or launch.is_interactive(arguments["fn"])
    )


def _problem() -> Optional[str]:
    """Return why workers from the forkserver would not do, or None."""
    executable = spawn.get_executable()
    if os.fsencode(executable or "") != os.fsencode(sys.executable or ""):
        return f"multiprocessing.set_executable() has chosen {executable!r}"
    return selftest.forkserver_problem() or selftest.equivalence_problem()


def _warn(message: str) -> None:
    # At the line of the user's that has called torch.
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__") in (__name__, _MODULE):
        frame, level = frame.f_back, level + 1
    _lifecycle.warn(message, level)
