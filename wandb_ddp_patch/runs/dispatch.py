"""Every call on a run goes by its state: what is put around wandb's own methods.

In the process that owns the run they are called as ever. Elsewhere the state
answers, or connects the run first. The methods of the class are wrapped, not those of an
instance: so a bound method that is older than a fork, ``Run.log(run, ...)`` and
``super().log`` do the same.

Read when wandb is imported, which must stay quick.
"""

from __future__ import annotations

import contextlib
import functools
from _thread import get_ident
from types import FunctionType
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, Optional, Tuple

from .metadata import FIELDS, STATE_ENTRY

if TYPE_CHECKING:
    from .state import OwnerState, RunState

    EndRun = Callable[[Any, OwnerState], None]

# Calls that end a worker's use of a run, and not the run.
ENDING_METHODS = ("finish", "_finish", "join", "__exit__")

# Calls that take a step.
_LOGS = ("log", "_log")

# The methods that a row goes through, and their decorators of wandb's that need not run again:
# a public method's check that the run is attached and not finished, which the state has done;
# and a private one's note whose messages these are, within a public one that has made it. With
# them, a row takes a worker 1.05 times the processor time (median of 200 interleaved rounds,
# wandb 0.31), and more than with wandb alone.
_ROW_METHODS = ("log", "_partial_history_callback")
_CHECKS, _NOTES = ("_attach", "_raise_if_finished"), ("_log_to_run",)

# Private methods that wandb's own integrations call (TensorBoard, torch, the config and
# the summary) are those that use the run's interface to its service; or call such ones.
_INTERFACE = {"_backend", "_interface"}
_USE_SERVICE = ("_log", "_define_metric", "_config_artifact_callback")
# But not what a run calls when it begins, attaches or ends, and for its output.
_DO_NOT = (
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


def wrapped_members(run_class: type, end: EndRun) -> Iterator[Tuple[str, Any]]:
    """Return what a class of runs gets: names, and methods or properties around its own.

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
            elif _uses_service(name, member):
                unchecked = _without_checks(member) if name in _ROW_METHODS else member
                yield name, _method(name, member, unchecked)
    if not hasattr(run_class, "summary"):
        yield "summary", _Summary()


def _uses_service(name: str, function: Any) -> bool:
    if name[0] != "_" or name in _USE_SERVICE:
        return True
    if name.startswith(_DO_NOT):
        return False
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return not _INTERFACE.isdisjoint(function.__code__.co_names)


def _without_checks(upstream: Any) -> Any:
    """Return a method without the decorators that its state makes needless."""
    needless = _NOTES if upstream.__name__[0] == "_" else _CHECKS
    # By the code of the function that each makes: that is how it is recognised below. Those that
    # a release lacks, or that do not decorate so, are left out.
    decorators: Dict[Any, Tuple[str, Callable[[Any], Any]]] = {}
    for name in (*_CHECKS, *_NOTES):
        with contextlib.suppress(Exception):
            decorator = upstream.__globals__[name]
            decorators[decorator(upstream).__code__] = name, decorator

    def strip(method: Any) -> Any:
        decorated_by = decorators.get(getattr(method, "__code__", None))
        inner = getattr(method, "__wrapped__", None)
        if decorated_by is None or inner is None:
            return method  # wandb's own function, or a decorator that is not known: all stays
        name, decorator = decorated_by
        return strip(inner) if name in needless else decorator(strip(inner))

    return strip(upstream)


def _method(
    name: str, upstream: Callable[..., Any], unchecked: Callable[..., Any]
) -> Callable[..., Any]:
    private, logs = name[0] == "_", name in _LOGS
    # A private method that the user's code calls has not passed what a public one has checked.
    connected = upstream if private else unchecked

    @functools.wraps(upstream)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        state: Optional[RunState] = self.__dict__.get(STATE_ENTRY)
        if state is None or not state.is_worker:
            return upstream(self, *args, **kwargs)
        # Part of a call that has been checked already: log() makes two of them.
        if private and state.transport.calling_thread == get_ident():
            return unchecked(self, *args, **kwargs)
        if logs and (len(args) > 1 or "step" in kwargs):
            args, kwargs = _step_as_value(args, kwargs)
        return state.call(self, name, upstream, args, kwargs, connected)

    method.__name__ = name  # a bound method is pickled by this name
    return method


_STEP_KEY = "custom_step"


def _step_as_value(
    args: Tuple[Any, ...], kwargs: Dict[str, Any]
) -> Tuple[Tuple[Any, ...], Dict[str, Any]]:
    """Turn the step that log() is given into a value of its row, because wandb would drop rows.

    A run has one count of steps, for all its processes: a row whose step is not beyond the
    last one is ignored, whoever has logged that. W&B's guide for such rows is an axis of
    their own: https://docs.wandb.ai/guides/track/log/customize-logging-axes

    Args:
        args: What log() is given by position: data, step, and what follows.
        kwargs: What it is given by name.
    """
    step = kwargs.get("step", args[1] if len(args) > 1 else None)
    data = kwargs.get("data", args[0] if args else None)
    if step is None or not isinstance(data, dict):
        return args, kwargs
    from .. import _lifecycle

    _lifecycle.termwarn(
        f"A step that a worker passes to log() is stored as the value {_STEP_KEY}: wandb would drop"
        " rows whose step is not higher than the last one of any process. To use it as the x-axis"
        f' of charts, call run.define_metric("*", step_metric="{_STEP_KEY}") once.',
        repeat=False,
    )
    kwargs = {key: val for key, val in kwargs.items() if key not in ("data", "step")}
    return ({_STEP_KEY: step, **data}, None, *args[2:]), kwargs


def _ending(upstream: Callable[..., Any], end: EndRun) -> Callable[..., Any]:
    @functools.wraps(upstream)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        state: Optional[RunState] = self.__dict__.get(STATE_ENTRY)
        if state is not None:
            if state.is_worker:
                state.detach(self)
                return None
            end(self, state)
        return upstream(self, *args, **kwargs)

    return method


def _property(name: str, upstream: property) -> property:
    """Return a property that needs no connection for what the state knows."""
    fget: Any = upstream.fget
    fset: Any = upstream.fset

    # As wandb's methods are called by a transport: the name, and the value, are arguments.
    def get(self: Any, _: str) -> Any:
        return fget(self)

    def put(self: Any, _: str, value: Any) -> None:
        fset(self, value)

    @functools.wraps(fget)
    def getter(self: Any) -> Any:
        state: Optional[RunState] = self.__dict__.get(STATE_ENTRY)
        if state is None or not state.is_worker:
            return fget(self)
        if name == "config":
            return self.__dict__["_config"]
        if name in FIELDS:
            return state.metadata[name]  # type: ignore[literal-required]
        return state.call(self, "__getattribute__", get, (name,), {})

    def setter(self: Any, value: Any) -> None:
        state: Optional[RunState] = self.__dict__.get(STATE_ENTRY)
        if state is None or not state.is_worker:
            fset(self, value)
            return
        state.call(self, "__setattr__", put, (name, value), {})
        if name in FIELDS:
            state.metadata[name] = value  # type: ignore[literal-required]

    wrapped_setter = functools.wraps(fset)(setter) if fset else None
    return property(getter, wrapped_setter, upstream.fdel, upstream.__doc__)


class _Summary:
    """The summary of a worker's run that has not attached; then wandb sets the attribute.

    Of releases whose class of runs has no property of that name.
    """

    def __get__(self, run: Any, owner: type) -> Any:
        if run is None:
            return self
        state: Optional[RunState] = run.__dict__.get(STATE_ENTRY)
        if state is None or not state.is_worker:
            raise AttributeError("summary")
        from wandb.sdk.wandb_summary import Summary

        summary: Any = Summary(run._summary_get_current_summary_callback)
        summary._set_update_callback(run._summary_update_callback)
        run.__dict__["summary"] = summary
        return summary


def metadata_properties(run_class: type) -> Dict[str, Any]:
    """Return the members of a class whose instances tell only what their state knows."""
    like = {name: getattr(run_class, name) for name in ("__module__", "__qualname__", "__doc__")}
    return {**like, **{name: _known(name) for name in FIELDS}}


def _known(name: str) -> property:
    return property(lambda self: self.__dict__[STATE_ENTRY].metadata[name])
