"""A run in a worker process: what it knows, and how it reaches its service.

In a worker, an unpickled run is of a subclass of wandb's Run. It answers from
its payload what was known when it was pickled (``KNOWN`` and the config), so
that reading needs no service, and attaches at the first call that does. Each
later call only looks whether its owner still has the run. A fork makes the same
of a run that it inherits.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import functools
import importlib
import inspect
import os
import re
import socket
import sys
import tempfile
import threading
import uuid
import weakref
from multiprocessing import util
from types import MethodType, SimpleNamespace
from typing import Any, Dict, List, Optional, Tuple
from urllib.parse import urlsplit

# What a run tells of itself without its service, beside its config. No more:
# all else in a run comes from its settings, which do not leave the process.
KNOWN = ("id", "name", "project", "entity", "group", "url", "offline", "disabled")

# Calls that end a worker's use of a run, and not the run.
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
# How long a worker waits at its end until the service has read all that it sent.
_FLUSH_SECONDS = 30

# Every run of this process, by what identifies it in payloads, so that a run
# that comes back is the same object. Plain weak references: upstream had fork
# deadlocks from finalizers.
_runs: Dict[str, weakref.ref[Any]] = {}
# Files that say that a run is active, and the process that owns it.
_markers: Dict[str, int] = {}
_attaching = threading.RLock()


def register(run: Any, key: Optional[str] = None) -> str:
    """Make a run findable by its payloads, in this process and its forks.

    Returns:
        What identifies the run in its payloads.
    """
    own = run.__dict__
    if "_ddp_key" not in own:
        own["_ddp_key"] = key or uuid.uuid4().hex
        # The shim may be imported in a fork, after the run was made.
        own["_ddp_pid"] = own.get("_init_pid", own.get("_pid", os.getpid()))
        own["_ddp_service"] = os.environ.get("WANDB_SERVICE")
        for dead in [name for name, ref in list(_runs.items()) if ref() is None]:
            _runs.pop(dead, None)
        _runs[own["_ddp_key"]] = weakref.ref(run)
    return str(own["_ddp_key"])


def reduce_run(run: Any) -> Tuple[Any, Tuple[Dict[str, Any]]]:
    """Reduce a run to a payload: identity, service address and plain facts.

    The payload holds no settings, no API key and nothing that outlives the
    run's service.
    """
    own = run.__dict__
    payload = own.get("_ddp_payload")
    if payload is None:
        register(run)
        _mark_active(run)
        payload = _payload(run)
    else:  # a worker passes it on
        payload = {**payload, "config": own["_config"]}
    if payload["known"]["disabled"]:
        payload["summary"] = {k: v for k, v in dict(run.summary).items() if _is_plain(v)}
    return load_run, (payload,)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int, float, bool))


def _payload(run: Any) -> Dict[str, Any]:
    own = run.__dict__
    return {
        "key": own["_ddp_key"],
        "owner": own.get("_init_pid", own["_ddp_pid"]),
        "attach_id": own.get("_attach_id"),
        "service": own["_ddp_service"],
        "marker": own.get("_ddp_marker"),
        "finished": bool(own.get("_is_finished")),
        "known": facts(run),
        "config": own.get("_config") if "_config" in own else run.config,
    }


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
        own = run.__dict__
        if "_ddp_payload" in own:  # what its owner has changed since the last time
            own["_ddp_payload"] = payload
            own["_ddp_known"].update(payload["known"])
            vars(own["_config"])["_items"].update(vars(payload["config"])["_items"])
        return run
    if payload["known"]["disabled"]:
        return _load_disabled(payload)
    from wandb.sdk.wandb_run import Run

    cls: Any = _class(Run)
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


# --- the class of a run in a worker -----------------------------------------


@functools.lru_cache(maxsize=None)
def _class(run_class: type) -> type:
    """Make a subclass of wandb's Run whose methods attach, and that knows facts."""
    members: Dict[str, Any] = _facts_class(run_class)
    members.update(
        config=property(lambda self: self.__dict__["_config"]),
        summary=property(_summary, _set_summary),
    )
    for name in dir(run_class):
        member = inspect.getattr_static(run_class, name)
        if name in members or (name.startswith("_") and name not in (*_CALLBACKS, *_ENDS)):
            continue
        if isinstance(member, property):
            members[name] = _attaching_property(member)
        elif inspect.isfunction(member):
            ends = name in _ENDS
            members[name] = _ending_method(member) if ends else _attaching_method(name, member)
    return type(run_class.__name__, (run_class,), members)


def _facts_class(run_class: type) -> Dict[str, Any]:
    like = {name: getattr(run_class, name) for name in ("__module__", "__qualname__", "__doc__")}
    return {**like, **{name: _known_property(run_class, name) for name in KNOWN}}


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


def _ending_method(upstream: Any) -> Any:
    @functools.wraps(upstream)
    def method(self: Any, *args: Any, **kwargs: Any) -> None:
        leave(self)

    return method


# --- reaching the service ---------------------------------------------------


def attach(run: Any) -> None:
    """Connect a run to its service, once, where this process does not own it.

    Also called before each use, to see whether the run is still active.

    Raises:
        wandb.errors.UsageError: The run can't be reached from this process.
            Raised at once; the message says why and what to do.
    """
    own = run.__dict__
    payload = own.get("_ddp_payload")
    wandb: Any = sys.modules["wandb"]
    if payload is None:
        if own.get("_ddp_pid", os.getpid()) != os.getpid() and not own.get("_attach_id"):
            raise _unreachable(own.get("_run_id") or run.id, _one_process(wandb))
        return
    if payload["finished"] and "_settings" in own:
        return  # a fork's: wandb itself says that it is finished
    if own.get("_ddp_left") == os.getpid():
        raise _unreachable(payload["known"]["id"], "this worker has called finish()")
    if own.get("_ddp_attached") == os.getpid():
        if not _active(payload):
            raise _unreachable(payload["known"]["id"], _FINISHED)
        return
    with _attaching:
        if own.get("_ddp_attached") == os.getpid() or "_ddp_attaching" in own:
            return  # another thread has done it, or it is what calls us
        _check_reachable(payload, wandb)
        # The environment may be older than wandb.init(): that of a forkserver
        # or a pool that was started before.
        service = os.environ.get("WANDB_SERVICE")
        os.environ["WANDB_SERVICE"] = payload["service"]
        before = dict(own)
        own["_ddp_attaching"] = True
        try:
            wandb._attach(run=run)
        except BaseException:
            own.clear()
            own.update(before)
            # Not to send the runs of this process's own elsewhere.
            os.environ.pop("WANDB_SERVICE")
            if service is not None:
                os.environ["WANDB_SERVICE"] = service
            raise
        del own["_ddp_attaching"]
        own["_ddp_attached"] = os.getpid()
        # Worker processes of multiprocessing run its finalizers at their end,
        # others what atexit has.
        util.Finalize(None, flush, (run,), exitpriority=100)
        atexit.register(flush, run)


_FINISHED = "the process that called wandb.init() has finished it, or has ended"


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
    elif not _active(payload):
        why = _FINISHED
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


def flush(run: Any) -> bool:
    """Wait until the service has read all that this worker has sent.

    One round trip does it: the service answers in order. Without it, wandb
    drops what a worker has not sent when it ends (0.21.2 to 0.22.0), and the
    owner's finish() what the service has not read.

    Returns:
        Whether it has; False after ``_FLUSH_SECONDS``, with a warning.
    """
    own = run.__dict__
    if own.get("_ddp_attached") != os.getpid() or own.get("_ddp_left") == os.getpid():
        return True
    done = False
    with contextlib.suppress(Exception):
        if _active(own["_ddp_payload"]):
            interface = own.get("_interface") or own["_backend"].interface
            handle = interface.deliver_get_summary()
            wait = getattr(handle, "wait_or", None) or handle.wait
            done = wait(timeout=_FLUSH_SECONDS) is not None
    if not done:
        wandb: Any = sys.modules["wandb"]
        wandb.termwarn(
            f"The last rows that this worker logged to run {own['_ddp_known']['id']} may be"
            f" lost: {_FINISHED}, or did not answer."
        )
    return done


def is_elsewhere(run: Any) -> bool:
    """Say whether a fork has inherited this run and has not attached it yet."""
    own = run.__dict__
    return "_ddp_payload" in own and not (
        own.get("_ddp_attached") == os.getpid() or "_ddp_attaching" in own
    )


def leave(run: Any) -> bool:
    """End this process's use of a run that another process owns.

    What finish() means in a worker: all that it logged is sent, and the run
    goes on for its owner and for other workers.

    Returns:
        False in the process that owns the run: there, it is to be finished.
    """
    own = run.__dict__
    if own.get("_ddp_pid", os.getpid()) == os.getpid() and "_ddp_payload" not in own:
        _unmark(run)
        return False
    flush(run)
    own["_ddp_left"] = os.getpid()
    if sys.modules["wandb"].run is run:
        importlib.import_module("wandb.sdk.lib.module").unset_globals()
    return True


# --- whether the owner still has the run ------------------------------------
#
# The service does not say that a run is finished: attaching waits, logging
# goes nowhere. So the owner keeps an empty file while the run is active.


def _mark_active(run: Any) -> None:
    own = run.__dict__
    if own.get("_ddp_pid") != os.getpid() or not own.get("_attach_id"):
        return
    if own.get("_is_finished") or "_ddp_marker" in own:
        return
    path = os.path.join(tempfile.gettempdir(), f"wandb_ddp_patch-{own['_ddp_key']}")
    own["_ddp_marker"] = None  # no way to tell: workers are not told
    with contextlib.suppress(OSError):
        open(path, "x").close()
        own["_ddp_marker"] = path
        if not _markers:
            util.Finalize(None, _unmark_all, exitpriority=100)
            atexit.register(_unmark_all)
        _markers[path] = os.getpid()


def _unmark(run: Any) -> None:
    _remove(run.__dict__.get("_ddp_marker") or "")


def _unmark_all() -> None:
    for path in list(_markers):
        _remove(path)


def _remove(path: str) -> None:
    if _markers.pop(path, None) == os.getpid():
        with contextlib.suppress(OSError):
            os.unlink(path)


def _active(payload: Dict[str, Any]) -> bool:
    return not payload["marker"] or os.path.exists(payload["marker"])


# --- forks ------------------------------------------------------------------


def _live_runs() -> List[Any]:
    runs = [ref() for ref in list(_runs.values())]
    return [run for run in runs if run is not None and run.__dict__.get("_attach_id")]


def _before_fork() -> None:
    with contextlib.suppress(Exception):
        for run in _live_runs():
            _mark_active(run)


def _after_fork_in_child() -> None:
    """Make of each run that was inherited what it would be, had it been pickled."""
    global _attaching
    _attaching = threading.RLock()
    with contextlib.suppress(Exception):
        for run in _live_runs():
            own = run.__dict__
            if "_ddp_payload" in own:
                continue  # a worker's worker: it attaches anew
            own["_ddp_payload"] = _payload(run)
            own["_ddp_known"] = own["_ddp_payload"]["known"]
            cls: Any = type(run)
            run.__class__ = _class(cls)
            wandb: Any = sys.modules["wandb"]
            for name, value in list(vars(wandb).items()):
                if isinstance(value, MethodType) and value.__self__ is run:
                    setattr(wandb, name, getattr(run, value.__name__))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)


# --- what single releases lack ----------------------------------------------


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
    import wandb

    setup: Any = importlib.import_module("wandb.sdk.wandb_setup")
    singleton = getattr(getattr(setup, "_WandbSetup", None), "_instance", None)
    before = dict(vars(wandb))
    wandb.run = None  # else some releases would return or finish it
    try:
        run: Any = wandb.init(mode="disabled")
    finally:
        # Loading must change nothing: neither what wandb.log does, nor what the
        # next wandb.init() starts with (up to 0.18, disabled means no service).
        vars(wandb).update({k: v for k, v in before.items() if vars(wandb).get(k) is not v})
        if hasattr(setup, "_WandbSetup"):
            setup._WandbSetup._instance = singleton
    state = vars(payload["config"])
    run.config.__dict__.update(
        {k: v for k, v in state.items() if not k.endswith(("callback", "_settings"))}
    )
    run.summary.update(payload["summary"])
    run.__dict__["_ddp_known"] = payload["known"]
    run.__dict__.pop("_ddp_key")  # its own: it stands for another one
    register(run, payload["key"])
    # Not setattr: RunDisabled takes that for an item.
    cls: Any = run.__class__
    twin: type = type(cls.__name__, (cls,), _facts_class(cls))
    object.__setattr__(run, "__class__", twin)
    return run
