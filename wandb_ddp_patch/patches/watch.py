"""Models under wandb.watch(): copies of them, and what arrives elsewhere, are unwatched.

wandb's hooks are local functions, which pickle refuses (wandb issues 5573, 2588 and
961), and its notes are attributes of the model. So whatever is copied or pickled gets
neither: for the classes of a watched model, copyreg knows a function that leaves them
out. Payloads are those of torch alone.
"""

from __future__ import annotations

import copy
import copyreg
import functools
import sys
import weakref
from collections import OrderedDict
from typing import Any, Dict, List, Tuple

from .._patching import (
    IncompatibleError,
    Patch,
    Undo,
    patch_class,
    require_class,
    throwaway_subclass,
    wraps_original,
)

# What wandb notes on a module, and where torch keeps a module's forward hooks.
_NOTES = ("_wandb_hook_names", "_wandb_watch_called")
_HOOKS = "_forward_hooks"
# Where wandb has its hooks: since 0.18, and before.
_PLACES = ("wandb.integration.torch.wandb_torch", "wandb.wandb_torch")


def _is_wandbs(hook):
    return getattr(hook, "__module__", None) in _PLACES


# --- what stands for a watched module in copies and payloads ----------------

# A dictionary of hooks, by its id, and the one without wandb's that stands for it. One
# for all who ask at the same time: a module that arrives must share it with the handles
# that take its other hooks off.
_without_wandbs: Dict[int, Tuple[Any, Any]] = {}


def _other_hooks(hooks):
    if not any(map(_is_wandbs, list(hooks.values()))):
        return hooks
    others = OrderedDict(item for item in list(hooks.items()) if not _is_wandbs(item[1]))
    known, known_others = _without_wandbs.get(id(hooks), (bool, bool))
    if known() is hooks and known_others() == others:
        return known_others()
    key = id(hooks)
    forget = lambda _: _without_wandbs.pop(key, None)  # noqa: E731
    _without_wandbs[key] = weakref.ref(hooks, forget), weakref.ref(others)
    return others


def _clean(state):
    """Return the ``__dict__`` of a module as it was before wandb.watch()."""
    if not isinstance(state, dict) or not (_HOOKS in state or any(n in state for n in _NOTES)):
        return state
    state = {name: value for name, value in state.items() if name not in _NOTES}
    if isinstance(state.get(_HOOKS), OrderedDict):
        state[_HOOKS] = _other_hooks(state[_HOOKS])
    return state


def _reduce_module(module):
    reduced = module.__reduce_ex__(4)
    if isinstance(reduced, str):
        return reduced
    function, args, *rest = reduced
    # Some classes hand their state over as an argument, as torch.fx does.
    return (function, tuple(map(_clean, args)), *map(_clean, rest))


def _reduce_handle(handle):
    function, args, (hooks, *rest), *more = handle.__reduce_ex__(4)
    if hooks is not None:
        hooks = _other_hooks(hooks)
    return (function, args, (hooks, *rest), *more)


def _teach_copyreg(kind, reduce):
    # Who has taught it something else will have a reason.
    copyreg.dispatch_table.setdefault(kind, reduce)


def _hide(module):
    """Let nothing of wandb's be copied with a module, or one in it."""
    _teach_copyreg(sys.modules["torch"].utils.hooks.RemovableHandle, _reduce_handle)
    for part in module.modules():
        _teach_copyreg(type(part), _reduce_module)


# --- where wandb's hooks are put on ------------------------------------------


class TorchHistory:
    """What wandb's TorchHistory should have had."""

    @wraps_original
    def _hook_variable_gradient_stats(upstream, self, *args, **kwargs):
        handle = upstream(self, *args, **kwargs)
        # torch leaves out hooks of tensors, and warns unless they say that this is meant.
        hooks = handle.hooks_dict_ref()
        if handle.id in hooks:
            hooks[handle.id].__torch_unserializable__ = True
        return handle


@wraps_original
def _watch(upstream, self, module, *args, **kwargs):
    """Stand for each method of wandb's that is given a module to put hooks on."""
    try:
        return upstream(self, module, *args, **kwargs)
    finally:
        _hide(module)


_METHODS = {
    "TorchHistory": (
        "add_log_parameters_hook",
        "add_log_gradients_hook",
        "add_log_hooks_to_pytorch_module",  # both, until 0.13
    ),
    "TorchGraph": ("hook_torch_modules",),
}


def _install(place: str, undo: List[Undo]) -> None:
    undo.append(_forget)
    for name, methods in _METHODS.items():
        kind = require_class(place, name)
        body = {method: _watch for method in methods if method in vars(kind)}
        if not body:
            raise IncompatibleError(f"{place}.{name} has no {methods[0]}")
        patch_class(undo, kind, type(name, (), body))
    patch_class(undo, require_class(place, "TorchHistory"), TorchHistory)


def _forget() -> None:
    ours = _reduce_module, _reduce_handle
    for kind in [kind for kind, reduce in copyreg.dispatch_table.items() if reduce in ours]:
        del copyreg.dispatch_table[kind]


def _is_fixed(place: str) -> bool:
    kind = throwaway_subclass(sys.modules["torch"].nn.Identity)
    model = kind()
    history_kind = throwaway_subclass(require_class(place, "TorchHistory"))
    history = history_kind.__new__(history_kind)  # upstream's __init__ asks for a run, once
    history._hook_handles = {}
    for method in _METHODS["TorchHistory"]:
        getattr(history, method, bool)(model)
    try:
        twin = copy.copy(model)
    finally:
        copyreg.dispatch_table.pop(kind, None)
    clean = vars(twin).keys() == vars(kind()).keys() and not twin._forward_hooks
    return clean and len(model._forward_hooks) == 1


# Both are optional, because each release has one of them.
PATCHES = [
    Patch(
        modules=(place, "torch"),
        name="TorchHistory",
        install=functools.partial(_install, place),
        is_fixed=functools.partial(_is_fixed, place),
        why="a model under wandb.watch() can be pickled, saved whole and sent to a worker,"
        " and arrives unwatched (issues 5573, 2588, 961)",
        since="0.10.23 or earlier",
        optional=True,
    )
    for place in _PLACES
]
