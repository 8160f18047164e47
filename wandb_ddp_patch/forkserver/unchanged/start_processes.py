"""WANDB_DDP_PATCH_SPAWN and use_forkserver(): torch's own spawn, from the forkserver.

What stands for torch's start_processes looks whether a forkserver's workers can be what
spawned ones are. Then it is called for a start method by which they come from there;
else as it was called.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import multiprocessing
import os
import sys
import warnings
from typing import Any, Callable, List, Optional, Set

from ..._patching import IncompatibleError, Patch, State, Undo, set_attribute
from .. import launch, selftest, server
from . import process

VARIABLE = "WANDB_DDP_PATCH_SPAWN"
_MODULE, _PACKAGE = "torch.multiprocessing.spawn", "torch.multiprocessing"
_NAME = "start_processes"
_said: Set[str] = set()


def apply(asked: Optional[str]) -> None:
    """Put the patch on.

    Args:
        asked: The environment's variable; None where the function was called.
    """
    if asked not in (None, "forkserver"):
        _say_once(f"{VARIABLE} is {asked!r}, which means nothing: it can be forkserver, or unset")
        return
    PATCH.apply()
    if PATCH.state is State.SKIPPED:
        _say_once(f"torch starts its workers as before, because {PATCH.reason}")


def _say_once(message: str) -> None:
    # A worker's parent has said it already.
    if message not in _said and not _importing_main():
        _said.add(message)
        _warn(message)


def revert() -> None:
    """Take it off."""
    PATCH.revert()


def _install(undo: List[Undo]) -> None:
    module, package = sys.modules[_MODULE], sys.modules[_PACKAGE]
    upstream = getattr(module, _NAME, None)
    if not callable(upstream):
        raise IncompatibleError(f"{_MODULE} has no {_NAME}")
    if not {"fn", "start_method"} <= set(inspect.signature(upstream).parameters):
        raise IncompatibleError(f"{_MODULE}.{_NAME} takes no fn, or no start_method")
    ours = _instead_of(upstream)
    process.register_start_method()
    undo.append(process.unregister_start_method)
    undo.append(set_attribute(module, _NAME, ours))
    # The package takes the name from the module, later than this if that is just imported.
    if getattr(package, _NAME, None) is upstream:
        setattr(package, _NAME, ours)
    undo.append(functools.partial(_restore, package, ours, upstream))


def _restore(package: Any, ours: Any, upstream: Any) -> None:
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


def _instead_of(upstream: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(upstream)

    @functools.wraps(upstream)
    def start_processes(*args: Any, **kwargs: Any) -> Any:
        try:
            call = signature.bind(*args, **kwargs)
        except TypeError:
            return upstream(*args, **kwargs)  # says it
        call.apply_defaults()
        if _is_not_for_us(call.arguments):
            return upstream(*args, **kwargs)
        why = _why_not()
        if why is None:
            others = multiprocessing.active_children()
            try:
                call.arguments["start_method"] = process.METHOD
                return upstream(*call.args, **call.kwargs)
            except (OSError, ValueError) as error:
                why = launch.start_problem(error, others)
        _warn(f"torch's workers are spawned, many times slower than forked, because {why}")
        return upstream(*args, **kwargs)

    start_processes.torchs_own = upstream  # type: ignore[attr-defined]
    return start_processes


def _importing_main() -> bool:
    return getattr(multiprocessing.current_process(), "_inheriting", False)


def _is_not_for_us(arguments: Any) -> bool:
    """Say whether nobody expects another start than torch's."""
    return (
        PATCH.state is not State.APPLIED  # somebody has kept ours
        or arguments["start_method"] != "spawn"
        or server.default_method() != "forkserver"
        or getattr(sys, "frozen", False)
        # A worker's workers: each worker would start a forkserver of its own.
        or _importing_main()
        or multiprocessing.parent_process() is not None
        or launch.is_in_no_file(arguments["fn"])
    )


def _why_not() -> Optional[str]:
    spawn: Any = importlib.import_module("multiprocessing.spawn")
    executable = spawn.get_executable()
    if os.fsencode(executable or "") != os.fsencode(sys.executable or ""):
        return f"multiprocessing.set_executable() has chosen {executable!r}"
    why = selftest.forkserver_problem()
    if why is not None:
        return why
    return selftest.equivalence_problem()


def _warn(message: str) -> None:
    # At the line of the user's that has called torch.
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__") in (__name__, _MODULE):
        frame, level = frame.f_back, level + 1
    try:
        warnings.warn(f"wandb_ddp_patch: {message}", RuntimeWarning, stacklevel=level)
    except RuntimeWarning:
        # An import, or a script that works without us, must not fail for ours.
        if sys.stderr is not None:
            sys.stderr.write(f"wandb_ddp_patch: {message}\n")
