"""A model under wandb.watch() can't be pickled (issues 961, 2588 and 5573; since 0.10.23).

wandb's hooks are local functions, which pickle refuses, and it keeps notes in attributes of
the model. With the patch, what is copied or pickled gets neither: for the classes of a
watched model, a function is registered with copyreg that leaves them out. Payloads are
those of torch alone, and what arrives is not watched.
"""

from __future__ import annotations

import copy
import copyreg
import functools
import sys
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Tuple, cast

from .._patching import (
    IncompatibleError,
    Patch,
    Undo,
    patch_class,
    require_class,
    throwaway_subclass,
    wraps_original,
)

if TYPE_CHECKING:
    _Hooks = OrderedDict[int, Callable[..., Any]]

# Attributes that wandb sets on a module, and the one where torch keeps its forward hooks.
_NOTES = ("_wandb_hook_names", "_wandb_watch_called")
_HOOKS = "_forward_hooks"
# Which module of wandb's defines the hooks: since 0.18, and before.
_MODULES = ("wandb.integration.torch.wandb_torch", "wandb.wandb_torch")


def _is_wandb_hook(hook: Any) -> bool:
    return getattr(hook, "__module__", None) in _MODULES


# --- copying and pickling a watched module -----------------------------------

# By the id of a dict of hooks, weak references to it and to its copy without wandb's hooks.
# While somebody has that copy, everybody gets the same one: within one payload, pickle sees
# by identity that a module and the handles that remove its other hooks share a dict, and
# with two copies, a handle would remove its hook from the wrong one where it arrives.
_cleaned_hooks: Dict[int, Tuple[Any, Any]] = {}


def _without_wandb_hooks(hooks: _Hooks) -> _Hooks:
    if not any(map(_is_wandb_hook, list(hooks.values()))):
        return hooks
    others = OrderedDict(item for item in list(hooks.items()) if not _is_wandb_hook(item[1]))
    key = id(hooks)
    references = _cleaned_hooks.get(key)
    if references is not None:
        original, cleaned = (reference() for reference in references)
        # Not by the id alone, which Python may have given to another dict since.
        if original is hooks and cleaned == others:
            return cast("_Hooks", cleaned)

    def forget(_: object) -> None:
        _cleaned_hooks.pop(key, None)

    _cleaned_hooks[key] = weakref.ref(hooks, forget), weakref.ref(others)
    return others


def _clean(state: Any) -> Any:
    """Return the ``__dict__`` of a module as it was before wandb.watch(); all else as it is."""
    if not isinstance(state, dict) or not (_HOOKS in state or any(n in state for n in _NOTES)):
        return state
    state = {name: value for name, value in state.items() if name not in _NOTES}
    if isinstance(state.get(_HOOKS), OrderedDict):
        state[_HOOKS] = _without_wandb_hooks(state[_HOOKS])
    return state


def _reduce_module(module: Any) -> Any:
    reduced = module.__reduce_ex__(4)
    if isinstance(reduced, str):
        return reduced
    function, args, *rest = reduced
    # Some classes, as in torch.fx, pass their state as an argument.
    return (function, tuple(map(_clean, args)), *map(_clean, rest))


def _reduce_handle(handle: Any) -> Any:
    function, args, (hooks, *rest), *more = handle.__reduce_ex__(4)
    if hooks is not None:
        hooks = _without_wandb_hooks(hooks)
    return (function, args, (hooks, *rest), *more)


def _register_reducers(module: Any) -> None:
    """Have copy and pickle leave out what is wandb's in a module and those in it."""
    # setdefault: who has registered something else for such a class will have a reason.
    handle_class = sys.modules["torch"].utils.hooks.RemovableHandle
    copyreg.dispatch_table.setdefault(handle_class, _reduce_handle)
    for each in module.modules():
        copyreg.dispatch_table.setdefault(type(each), _reduce_module)


# --- where wandb registers its hooks -----------------------------------------


class TorchHistory:
    """What wandb's TorchHistory should have had."""

    @wraps_original
    def _hook_variable_gradient_stats(original, self, *args, **kwargs):
        handle = original(self, *args, **kwargs)
        # torch pickles no hooks of tensors, and warns of each that is not marked so.
        hooks = handle.hooks_dict_ref()
        if handle.id in hooks:
            hooks[handle.id].__torch_unserializable__ = True
        return handle


@wraps_original
def _watch(original, self, module, *args, **kwargs):
    """Wrap each method of wandb's that registers hooks on a module."""
    try:
        return original(self, module, *args, **kwargs)
    finally:  # it may have registered some before it raised
        _register_reducers(module)


_METHODS = {
    "TorchHistory": (
        "add_log_parameters_hook",
        "add_log_gradients_hook",
        "add_log_hooks_to_pytorch_module",  # both, until 0.13
    ),
    "TorchGraph": ("hook_torch_modules",),
}


def _install(module: str, undo: List[Undo]) -> None:
    undo.append(_unregister_reducers)
    for name, methods in _METHODS.items():
        cls = require_class(module, name)
        body = {method: _watch for method in methods if method in vars(cls)}
        if not body:
            raise IncompatibleError(f"{module}.{name} has no {methods[0]}")
        patch_class(undo, cls, type(name, (), body))
    patch_class(undo, require_class(module, "TorchHistory"), TorchHistory)


def _unregister_reducers() -> None:
    ours = _reduce_module, _reduce_handle
    for cls in [cls for cls, reduce in copyreg.dispatch_table.items() if reduce in ours]:
        del copyreg.dispatch_table[cls]


def _is_fixed(module: str) -> bool:
    model_class = throwaway_subclass(sys.modules["torch"].nn.Identity)
    model = model_class()
    history_class = throwaway_subclass(require_class(module, "TorchHistory"))
    history = history_class.__new__(history_class)  # some releases' __init__ asks for a run
    history._hook_handles = {}
    for method in _METHODS["TorchHistory"]:
        getattr(history, method, bool)(model)
    try:
        copied = copy.copy(model)
    finally:
        copyreg.dispatch_table.pop(model_class, None)
    is_clean = vars(copied).keys() == vars(model_class()).keys() and not copied._forward_hooks
    return is_clean and len(model._forward_hooks) == 1


# Both are optional, because each release has one of them.
PATCHES = [
    Patch(
        modules=(module, "torch"),
        name="TorchHistory",
        install=functools.partial(_install, module),
        is_fixed=functools.partial(_is_fixed, module),
        why="a model under wandb.watch() can be pickled, saved whole and sent to a worker,"
        " and arrives unwatched (issues 5573, 2588, 961)",
        since="0.10.23 or earlier",
        optional=True,
    )
    for module in _MODULES
]
