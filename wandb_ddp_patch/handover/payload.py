"""What travels when a run is pickled, and what it becomes where it arrives."""

from __future__ import annotations

import importlib
import os
import re
from typing import Any, Dict, Optional, cast

from .._process import is_this_process

# Some of them for those who call runs: a worker may have no descriptor left by then.
from ..runs import state
from ..runs.dispatch import metadata_properties
from ..runs.globals import set_global_run
from ..runs.metadata import FIELDS, collect_metadata
from ..runs.payload_format import FORMAT, Metadata, Payload
from ..runs.state import OwnerState, Phase, WorkerState
from ..runs.transport import UnreachableTransport
from ..transports import selection

# --- pickling -------------------------------------------------------------------


def dump(run: Any) -> Payload:
    """Return a run's payload; make the run reachable for workers, if it is this process's."""
    run_state = state.get_state(run)
    if isinstance(run_state, WorkerState):  # a worker passes it on, as it is for this worker now
        payload = run_state.payload.copy()
        _put_config(payload, run.__dict__["_config"])
        return payload
    if run.__dict__.get("_attach_id") or run.__dict__.get("_backend"):
        selection.publish(run)
    payload = describe(run)
    if payload["metadata"]["disabled"]:
        from ..runs.execute import is_json_like  # late: few runs are disabled

        payload["summary"] = {k: v for k, v in dict(run.summary).items() if is_json_like(v)}
    return payload


def describe(run: Any) -> Payload:
    """Return the payload of a run of this process, as the run is now."""
    own, owner = run.__dict__, state.ensure_owner_state(run)
    payload: Payload = {
        "format": FORMAT,
        "key": owner.key,
        "owner_pid": own.get("_init_pid", own.get("_pid", os.getpid())),
        "owner_fingerprint": owner.fingerprint,
        "attach_id": own.get("_attach_id"),
        "service": owner.service,
        "attached_by_id": False,
        "owner_file": owner.owner_file,
        "local_address": owner.local_address,
        "share": owner.share,
        "root_dir": getattr(own.get("_settings"), "root_dir", None),
        "finished": bool(own.get("_is_finished") or owner.finished),
        "metadata": collect_metadata(run),
        "config": None,
        "config_internals": None,
        "summary": None,
    }
    _put_config(payload, own.get("_config") or run.config)
    return payload


def _put_config(payload: Payload, config: Any) -> None:
    payload["config"] = config
    items = getattr(config, "__dict__", {}).get("_items", {})  # a disabled run's may be a dict
    internals = items.get("_wandb")
    if internals is not None:
        # A copy: another thread may log media while the payload is pickled.
        payload["config_internals"] = {
            key: value.copy() if type(value) is dict else value
            for key, value in internals.copy().items()
        }


# --- loading --------------------------------------------------------------------


def load(payload: Payload) -> Any:
    """Find or make the run that a payload stands for.

    Returns:
        In the process that owns the run, or has loaded it before, the very
        same object; elsewhere a run that connects at first use.
    """
    if payload.get("format") != FORMAT:
        return _load_unreadable(payload)
    if payload["config_internals"] is not None:
        vars(payload["config"])["_items"]["_wandb"] = payload["config_internals"]
    run = state.lookup(payload["key"]) or _find_attached_by_id(payload)
    if run is not None:
        run_state = state.get_state(run)
        if isinstance(run_state, WorkerState):
            _update(run, run_state, payload)
        return run
    if payload["metadata"]["disabled"]:
        return _load_disabled(payload)
    return _new_run(WorkerState(payload, selection.select(payload)))


def _new_run(worker: WorkerState) -> Any:
    from wandb.sdk.wandb_run import Run

    # Without __init__, which starts a run: attaching fills in the rest, at first use.
    run = Run.__new__(Run)
    payload, config = worker.payload, worker.payload["config"]
    run.__dict__.update(
        _attach_id=payload["attach_id"],
        _init_pid=payload["owner_pid"],
        _is_finished=payload["finished"],
        _config=config,
    )
    state.bind(run, worker)
    for name in ("callback", "artifact_callback"):
        callback = getattr(run, "_config_" + name, None)  # artifact_callback: since 0.12
        if callback is not None and "_" + name in config.__dict__:
            config.__dict__["_" + name] = callback
    return run


def _update(run: Any, worker: WorkerState, payload: Payload) -> None:
    """Update a run that this process had already by what has changed since."""
    if worker.phase is Phase.LEFT:  # a pool's next task
        worker.phase = Phase.CONNECTED if worker.transport.resume(run) else Phase.DETACHED
        set_global_run(run)
    if worker.phase is Phase.DETACHED:
        worker.transport = selection.select(payload)
    worker.payload = payload
    worker.metadata.update(payload["metadata"])
    vars(run.__dict__["_config"])["_items"].update(vars(payload["config"])["_items"])


def _load_unreadable(payload: Payload) -> Any:
    """Return a run for a payload of another format: it can be read, and raises when it is used.

    Nothing is raised now: it may be a small part of a checkpoint, and all of that would be lost.
    """
    from wandb.sdk.wandb_config import Config

    written: Any = payload
    found, metadata = written.get("format"), written.get("metadata")
    told: Dict[str, Any] = metadata if isinstance(metadata, dict) else {}
    fields = {name: told.get(name) for name in FIELDS}
    config = written.get("config")
    # What this release reads, and for a worker's worker all that it does not.
    kept = {
        **written,
        "key": str(written.get("key")),
        "owner_pid": None,
        "attach_id": None,
        "finished": False,
        "metadata": cast(Metadata, fields),
        "config": config if isinstance(config, Config) else Config(),
        "config_internals": None,
    }
    worker = WorkerState(
        cast(Payload, {"owner_fingerprint": None, **kept}),
        UnreachableTransport(
            "it was pickled by another release of wandb_ddp_patch (its payload has format"
            f" {found}, and this release reads {FORMAT}): install the same release everywhere"
        ),
    )
    return state.lookup(worker.key) or _new_run(worker)


# --- runs that workers attach to by their id ------------------------------------


def adopt_attached_run(run: Any) -> None:
    """Turn a run that has attached by its id into a worker's run."""
    from ..transports.service import ServiceTransport  # late: not all releases need it

    data = describe(run)
    data["attach_id"], data["attached_by_id"] = data["attach_id"] or data["metadata"]["id"], True
    match = re.match(r"\d+-(\d+)-", data["service"] or "")  # WANDB_SERVICE names its owner
    data["owner_pid"] = int(match[1]) if match else None
    transport = ServiceTransport(data)
    state.bind(run, WorkerState(data, transport, Phase.CONNECTED))
    transport.has_attached(run)


def _find_attached_by_id(payload: Payload) -> Optional[Any]:
    """Find the run of this process that a worker has attached to by its id, and sent back."""
    if not payload["attached_by_id"] or not is_this_process(
        payload["owner_pid"], payload["owner_fingerprint"]
    ):
        return None
    for run in state.live_runs():
        owner = isinstance(state.get_state(run), OwnerState)
        if owner and collect_metadata(run)["id"] == payload["metadata"]["id"]:
            return run
    return None


# --- disabled runs --------------------------------------------------------------


def _load_disabled(payload: Payload) -> Any:
    """Have wandb make a disabled run, and give it what the payload knows."""
    run = _new_disabled_run()
    fields = vars(payload["config"])
    run.config.__dict__.update(
        {k: v for k, v in fields.items() if not k.endswith(("callback", "_settings"))}
    )
    run.summary.update(payload["summary"])
    # Not a key of its own: it stands for another one.
    state.bind(run, OwnerState(payload["key"], payload["metadata"]))
    # Not setattr: RunDisabled takes that for an item.
    cls: Any = run.__class__
    twin: type = type(cls.__name__, (cls,), metadata_properties(cls))
    object.__setattr__(run, "__class__", twin)
    return run


def _new_disabled_run() -> Any:
    import wandb

    setup: Any = importlib.import_module("wandb.sdk.wandb_setup")
    singleton = getattr(getattr(setup, "_WandbSetup", None), "_instance", None)
    before = dict(vars(wandb))
    wandb.run = None  # else some releases would return or finish it
    try:
        return wandb.init(mode="disabled")
    finally:
        # Loading must change nothing: neither what wandb.log does, nor what the
        # next wandb.init() starts with (up to 0.18, disabled means no service).
        vars(wandb).update({k: v for k, v in before.items() if vars(wandb).get(k) is not v})
        if hasattr(setup, "_WandbSetup"):
            setup._WandbSetup._instance = singleton
