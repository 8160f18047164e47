"""A run in a worker process: what it knows, and how it reaches its service.

In a worker, an unpickled run is of a subclass of wandb's Run. It answers from
its payload what was known when it was pickled (``KNOWN`` and the config), so
that reading needs no service, and attaches at the first call that does. From
then on wandb's own code is in charge.
"""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import os
import re
import socket
import sys
import threading
import uuid
import weakref
from types import MethodType, SimpleNamespace
from typing import Any, Dict, Optional, Tuple
from urllib.parse import urlsplit

# What a run tells of itself without its service, beside its config. No more:
# all else in a run comes from its settings, which do not leave the process.
KNOWN = ("id", "name", "project", "entity", "group", "url", "offline", "disabled")

# Calls that end a worker's use of a run: nothing to do before it has begun.
_ENDS = ("finish", "join", "__exit__")
# Private methods through which the config and the summary reach the run.
_CALLBACKS = (
    "_config_callback",
    "_config_artifact_callback",
    "_summary_get_current_summary_callback",
    "_summary_update_callback",
)
# WANDB_SERVICE: version, process id, transport, address.
_SERVICE = re.compile(r"\d+-\d+-(?:(unix)-(.+)|\w+-(.+)-(\d+))")

# Every run of this process, by what identifies it in payloads, so that a run
# that comes back is the same object. Plain weak references: upstream had fork
# deadlocks from finalizers.
_runs: Dict[str, weakref.ref[Any]] = {}
_attaching = threading.RLock()


def register(run: Any, key: Optional[str] = None) -> str:
    """Make a run findable by its payloads, in this process and its forks.

    Returns:
        What identifies the run in its payloads.
    """
    own = run.__dict__
    if "_ddp_key" not in own:
        own["_ddp_key"] = key or uuid.uuid4().hex
        own["_ddp_pid"] = os.getpid()
        for dead in [name for name, ref in _runs.items() if ref() is None]:
            _runs.pop(dead, None)
        _runs[own["_ddp_key"]] = weakref.ref(run)
    return str(own["_ddp_key"])


def reduce_run(run: Any) -> Tuple[Any, Tuple[Dict[str, Any]]]:
    """Reduce a run to a payload: identity, service address and plain facts.

    The payload holds no settings, no API key and nothing that outlives the
    run's service.
    """
    own = run.__dict__
    if "_ddp_payload" in own and "_settings" not in own:
        return load_run, (own["_ddp_payload"],)  # not attached: pass it on as it came
    known = facts(run)
    key = register(run)
    payload = {
        "key": key,
        "owner": own.get("_init_pid", own["_ddp_pid"]),
        "attach_id": own.get("_attach_id"),
        "service": os.environ.get("WANDB_SERVICE"),
        "finished": bool(own.get("_is_finished")),
        "known": known,
        "config": own.get("_config") if "_config" in own else run.config,
    }
    if known["disabled"]:
        payload["summary"] = dict(run.summary)
    return load_run, (payload,)


def facts(run: Any) -> Dict[str, Any]:
    """Tell what a run knows of itself, without attaching it: see ``KNOWN``."""
    known = {name: _fact(run, name) for name in KNOWN}
    known["url"] = known["url"] and _bare_url(known["url"])
    return known


def _fact(run: Any, name: str) -> Any:
    try:
        if name == "url" and _fact(run, "offline"):
            return None  # wandb would warn that there is none
        member = getattr(type(run), name, None)
        if isinstance(member, property):
            # Without wandb's decorators: in a fork they would attach.
            value = inspect.unwrap(member.fget)(run)  # type: ignore[arg-type]
        else:
            value = getattr(run, name)
    except Exception:
        return None
    # RunDisabled answers any name with another RunDisabled.
    return value if type(value) in (str, int, float, bool) else None


def _bare_url(url: str) -> str:
    # An anonymous user's URL carries the API key in its query.
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def load_run(payload: Dict[str, Any]) -> Any:
    """Find or make the run that a payload stands for.

    Returns:
        In the process that owns the run, or has loaded it before, the very
        same object; elsewhere a run that attaches at first use.
    """
    known_here = _runs.get(payload["key"])
    run = known_here() if known_here else None
    if run is not None:
        return run
    if payload["known"]["disabled"]:
        return _load_disabled(payload)
    from wandb.sdk.wandb_run import Run

    cls: Any = _classes(Run)[1]
    run = cls.__new__(cls)
    config = payload["config"]
    run.__dict__.update(
        _attach_id=payload["attach_id"],
        _init_pid=payload["owner"],
        _is_finished=payload["finished"],
        _config=config,
        _ddp_known=payload["known"],
        _ddp_payload=payload,
    )
    register(run, payload["key"])
    for name in ("callback", "artifact_callback"):
        if "_" + name in config.__dict__:  # artifact_callback: since 0.12
            config.__dict__["_" + name] = getattr(run, "_config_" + name)
    return run


# --- the classes of a run that came in a payload ----------------------------


@functools.lru_cache(maxsize=None)
def _classes(run_class: type) -> Tuple[type, type]:
    """Make two subclasses of wandb's Run: attached, and not attached yet."""
    like = {
        "__module__": run_class.__module__,
        "__qualname__": run_class.__qualname__,
        "__doc__": run_class.__doc__,
    }
    facts = {name: _known_property(run_class, name) for name in KNOWN}
    attached: Any = type(run_class.__name__, (run_class,), {**like, **facts})

    members: Dict[str, Any] = {
        "config": property(lambda self: self.__dict__["_config"]),
        "summary": property(_summary, _set_summary),
        "_ddp_unattached": True,
    }
    for name in dir(run_class):
        member = inspect.getattr_static(run_class, name)
        if name in _ENDS:
            members[name] = _nothing(member)
        elif (name.startswith("_") and name not in _CALLBACKS) or name in (*KNOWN, "config"):
            continue
        elif isinstance(member, property):
            members[name] = _attaching_property(member)
        elif inspect.isfunction(member):
            members[name] = _attaching_method(name, member)
    unattached = type(run_class.__name__, (attached,), {**like, **members})
    return attached, unattached


def _known_property(run_class: type, name: str) -> property:
    def setter(self: Any, value: Any) -> None:
        attach(self)
        getattr(run_class, name).fset(self, value)
        self._ddp_known[name] = value

    settable = getattr(getattr(run_class, name, None), "fset", None)
    return property(lambda self: self._ddp_known[name], setter if settable else None)


def _summary(run: Any) -> Any:
    from wandb.sdk.wandb_summary import Summary

    if "summary" not in run.__dict__:
        summary: Any = Summary(run._summary_get_current_summary_callback)
        summary._set_update_callback(run._summary_update_callback)
        run.__dict__["summary"] = summary
    return run.__dict__["summary"]


def _set_summary(run: Any, summary: Any) -> None:
    run.__dict__["summary"] = summary


def _attaching_method(name: str, upstream: Any) -> Any:
    @functools.wraps(upstream)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        attach(self)
        return upstream(self, *args, **kwargs)

    method.__name__ = name  # a bound method is pickled by this name
    return method


def _attaching_property(upstream: property) -> property:
    def getter(self: Any) -> Any:
        attach(self)
        return upstream.fget(self)  # type: ignore[misc]

    def setter(self: Any, value: Any) -> None:
        attach(self)
        upstream.fset(self, value)  # type: ignore[misc]

    return property(getter, setter if upstream.fset else None, doc=upstream.__doc__)


def _nothing(upstream: Any) -> Any:
    @functools.wraps(upstream)
    def method(self: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: this process has not used the run, its owner goes on."""

    return method


# --- reaching the service ---------------------------------------------------


def attach(run: Any) -> None:
    """Connect a run that came in a payload to its service, once.

    Raises:
        wandb.errors.UsageError: The run can't be reached from this process.
            Raised at once; the message says why and what to do.
    """
    cls = type(run)
    if "_ddp_unattached" not in vars(cls):
        return  # attached already
    with _attaching:
        if type(run) is not cls or "_ddp_attaching" in run.__dict__:
            return  # another thread has done it, or it is what calls us
        wandb: Any = importlib.import_module("wandb")
        payload = run._ddp_payload
        _check_reachable(payload, wandb)
        # The environment may be older than wandb.init(): that of a forkserver
        # or a pool that was started before.
        os.environ["WANDB_SERVICE"] = payload["service"]
        before = dict(run.__dict__)
        run.__dict__["_ddp_attaching"] = True
        try:
            wandb._attach(run=run)
        except BaseException:
            run.__dict__.clear()
            run.__dict__.update(before)
            raise
        del run.__dict__["_ddp_attaching"]
        # Only now, so that other threads wait. What wandb has made global
        # meanwhile, wandb.log say, is still bound to the methods that do.
        run.__class__ = cls.__mro__[1]
        for name, value in list(vars(wandb).items()):
            if isinstance(value, MethodType) and value.__self__ is run:
                setattr(wandb, name, getattr(run, value.__name__))


def _check_reachable(payload: Dict[str, Any], wandb: Any) -> None:
    if payload["finished"]:
        why = "it was finished before it was sent here"
    elif payload["owner"] == os.getpid():
        why = "it has ended: nothing in this process holds it any more"
    elif not payload["attach_id"] or not payload["service"] or not hasattr(wandb, "_attach"):
        why = _one_process(wandb)
    elif not _answers(payload["service"]):
        why = (
            "its service is gone: the process that called wandb.init()"
            f" (process id {payload['owner']}) has ended, or it is on another machine"
        )
    else:
        return
    raise _unreachable(payload["known"]["id"], why)


def _one_process(wandb: Any) -> str:
    return f"in wandb {wandb.__version__} a run works in one process only"


def _unreachable(run_id: str, why: str) -> Exception:
    errors: Any = importlib.import_module("wandb.errors")
    error: Exception = errors.UsageError(
        f"Run {run_id} can't be written from this process, because {why}. Log in the"
        " process that called wandb.init(), while its run is active, or start a run of"
        " your own here with wandb.init(); to add to the same run online, use"
        f" wandb.init(id={run_id!r}, resume='allow')."
    )
    return error


def _answers(service: str) -> bool:
    """Say whether something listens at a WANDB_SERVICE address (within 1 s)."""
    match = _SERVICE.fullmatch(service)
    if not match:
        return True  # a form that we don't know: let wandb try
    unix, path, host, port = match.groups()
    try:
        if unix:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(1)
                connection.connect(path)
        else:
            socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def reach(run: Any) -> None:
    """Attach a run that a fork has inherited, before its callbacks use it.

    wandb attaches in the public methods alone; the config and the summary call
    private ones, which then use the parent's connection (upstream: ForkedError,
    a hang, or a change that is lost).

    Raises:
        wandb.errors.UsageError: In this release, no other process can use it.
    """
    own = run.__dict__
    pid = os.getpid()
    if own.get("_ddp_pid", pid) == pid or own.get("_attach_pid") == pid:
        return
    wandb: Any = sys.modules["wandb"]
    if not own.get("_attach_id"):
        raise _unreachable(own.get("_run_id") or run.id, _one_process(wandb))
    with _attaching:
        if own["_attach_pid"] != pid:
            wandb._attach(run=run)


def settings_of(run: Any) -> Any:
    """Make settings for a run that attaches, where wandb forgets to (0.17.6 to 0.18.1)."""
    import wandb

    settings = copy.copy(wandb.setup().settings)
    settings.update({"run_id": run._attach_id, "_offline": run._ddp_known["offline"]})
    return settings


def offline_answer(run: Any) -> Any:
    """Answer the question that attaching asks, where the service drops it.

    It asks for the run's record. From 0.13.0 to 0.15.3 the service hands that
    to a part of it that gets nothing in offline mode, so that each worker's
    first call fails after 30 s, though all else works.

    Returns:
        What waiting for the service's answer would have returned, or None
        where the service does answer.
    """
    known = run._ddp_known
    if not known["offline"]:
        return None
    from wandb.sdk.internal import handler

    if "_dispatch_record" not in handler.HandleManager.handle_request_attach.__code__.co_names:
        return None
    from wandb.proto import wandb_internal_pb2 as pb

    record = pb.RunRecord(
        run_id=known["id"],
        entity=known["entity"],
        project=known["project"],
        display_name=known["name"],
        run_group=known["group"],
    )
    return SimpleNamespace(response=SimpleNamespace(attach_response=pb.AttachResponse(run=record)))


# --- disabled runs ----------------------------------------------------------


def _load_disabled(payload: Dict[str, Any]) -> Any:
    """Have wandb make a disabled run, and give it what the payload knows."""
    import multiprocessing

    import wandb

    before = dict(vars(wandb))
    wandb.run = None  # else some releases would return or finish it
    try:
        run: Any = wandb.init(mode="disabled")
    finally:
        # In a worker without a run it stays the current one, as it is in the
        # parent; elsewhere loading must not change what wandb.log does.
        if before["run"] is not None or multiprocessing.parent_process() is None:
            vars(wandb).update({k: v for k, v in before.items() if vars(wandb).get(k) is not v})
    state = vars(payload["config"])
    run.config.__dict__.update(
        {k: v for k, v in state.items() if not k.endswith(("callback", "_settings"))}
    )
    run.summary.update(payload["summary"])
    run.__dict__["_ddp_known"] = payload["known"]
    run.__dict__.pop("_ddp_key")  # its own: it stands for another one
    register(run, payload["key"])
    # Not setattr: RunDisabled takes that for an item.
    object.__setattr__(run, "__class__", _classes(run.__class__)[0])
    return run
