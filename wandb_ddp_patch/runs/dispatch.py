"""Every call on a run goes by its state: what is put around wandb's own methods.

In the process that owns the run they are called as ever. Elsewhere the state
answers, or connects the run first. It is the method of the class that every run
has, so that a method which was taken from a run before a fork, ``Run.log(run, ...)``
and ``super().log`` take the same road.
"""

from __future__ import annotations

import contextlib
import functools
from _thread import get_ident
from types import FunctionType
from typing import Any, Callable, Dict, Iterator, Tuple

from .metadata import ENTRY, FIELDS

# Calls that end a worker's use of a run, and not the run.
ENDING_METHODS = ("finish", "_finish", "join", "__exit__")

# Calls that take a step.
_LOGS = ("log", "_log")

# What a row goes through; and the decorators of wandb's on the way that ask once more, in a
# run that its state has found attached and not over, or, within a call, tell once more whose
# messages these are. Without them, a row costs no more than with wandb alone.
_ROW = ("log", "_partial_history_callback")
_ASKING, _TELLING = ("_attach", "_raise_if_finished"), ("_log_to_run",)

# Private methods that wandb's own integrations call (TensorBoard, torch, the config and
# the summary) are those that use the run's interface to its service; or call such ones.
_INTERFACE = {"_backend", "_interface"}
_MEANT = ("_log", "_define_metric", "_config_artifact_callback")
# But not what a run calls when it begins, attaches or ends, and for its output.
_NOT_MEANT = (
    "__",
    "_atexit",
    "_console",
    "_init",
    "_label",
    "_on_",
    "_set_",
    "_telemetry",
    "_wait",
)


def wrapped_members(run_class: type, end: Callable[[Any, Any], None]) -> Iterator[Tuple[str, Any]]:
    """Make the members that a run class gets, by name.

    Args:
        run_class: wandb's class of runs.
        end: Called with a run of this process, and its state, before it is finished.
    """
    for name, member in list(vars(run_class).items()):
        if isinstance(member, property):
            if name[0] != "_":
                yield name, _property(name, member)
        elif isinstance(member, FunctionType):
            if name in ENDING_METHODS:
                yield name, _ending(member, end)
            elif _is_meant(name, member):
                yield (
                    name,
                    _method(name, member, _without_checks(member) if name in _ROW else member),
                )
    if not hasattr(run_class, "summary"):
        yield "summary", _Summary()


def _is_meant(name: str, function: Any) -> bool:
    if name[0] != "_" or name in _MEANT:
        return True
    if name.startswith(_NOT_MEANT):
        return False
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return not _INTERFACE.isdisjoint(function.__code__.co_names)


def _without_checks(upstream: Any) -> Any:
    """Take off a method what its state makes needless; what is not known stays."""
    needless = _TELLING if upstream.__name__[0] == "_" else _ASKING
    decorators: Dict[Any, Any] = {}
    for known in (*_ASKING, *_TELLING):
        with contextlib.suppress(Exception):
            decorator = upstream.__globals__[known]
            decorators[decorator(upstream).__code__] = known, decorator

    def bare(method: Any) -> Any:
        known, decorator = decorators.get(getattr(method, "__code__", None), (None, None))
        own = getattr(method, "__wrapped__", None)
        if known is None or own is None:
            return method
        return bare(own) if known in needless else decorator(bare(own))

    return bare(upstream)


def _method(name: str, upstream: Callable[..., Any], bare: Callable[..., Any]) -> Any:
    private, logs = name[0] == "_", name in _LOGS
    by_itself = upstream if private else bare

    @functools.wraps(upstream)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        state = self.__dict__.get(ENTRY)
        if state is None or not state.is_worker:
            return upstream(self, *args, **kwargs)
        # Part of a call that has been looked at already: log() makes two of them.
        if (
            private
            and state.transport is not None
            and state.transport.calling_thread == get_ident()
        ):
            return bare(self, *args, **kwargs)
        if logs and (len(args) > 1 or "step" in kwargs):
            from .steps import step_as_value  # late: importing wandb must stay quick

            args, kwargs = step_as_value(args, kwargs)
        return state.call(self, name, upstream, args, kwargs, by_itself)

    method.__name__ = name  # a bound method is pickled by this name
    return method


def _ending(upstream: Callable[..., Any], end: Callable[[Any, Any], None]) -> Callable[..., Any]:
    @functools.wraps(upstream)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        state = self.__dict__.get(ENTRY)
        if state is not None:
            if state.is_worker:
                state.detach(self)
                return None
            end(self, state)
        return upstream(self, *args, **kwargs)

    return method


def _property(name: str, upstream: property) -> property:
    """What is known is told at once, and needs no connection; all else does."""
    fget: Any = upstream.fget
    fset: Any = upstream.fset

    def get(self: Any, _: str) -> Any:
        return fget(self)

    def put(self: Any, _: str, value: Any) -> None:
        fset(self, value)

    @functools.wraps(fget)
    def getter(self: Any) -> Any:
        state = self.__dict__.get(ENTRY)
        if state is None or not state.is_worker:
            return fget(self)
        if name == "config":
            return self.__dict__["_config"]
        if name in FIELDS:
            return state.metadata[name]
        return state.call(self, "__getattribute__", get, (name,), {})

    def setter(self: Any, value: Any) -> None:
        state = self.__dict__.get(ENTRY)
        if state is None or not state.is_worker:
            fset(self, value)
            return
        state.call(self, "__setattr__", put, (name, value), {})
        if name in FIELDS:
            state.metadata[name] = value

    put_on = functools.wraps(fset)(setter) if fset else None
    return property(getter, put_on, upstream.fdel, upstream.__doc__)


class _Summary:
    """The summary of a run that has not attached: an attribute that wandb sets later."""

    def __get__(self, run: Any, owner: type) -> Any:
        if run is None:
            return self
        state = run.__dict__.get(ENTRY)
        if state is None or not state.is_worker:
            raise AttributeError("summary")
        from wandb.sdk.wandb_summary import Summary

        summary: Any = Summary(run._summary_get_current_summary_callback)
        summary._set_update_callback(run._summary_update_callback)
        run.__dict__["summary"] = summary
        return summary


def metadata_properties(run_class: type) -> Dict[str, Any]:
    """Make members for a class whose instances tell only what their state knows."""
    like = {name: getattr(run_class, name) for name in ("__module__", "__qualname__", "__doc__")}
    return {**like, **{name: _known(name) for name in FIELDS}}


def _known(name: str) -> property:
    return property(lambda self: self.__dict__[ENTRY].metadata[name])
