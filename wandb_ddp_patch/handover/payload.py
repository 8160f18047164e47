"""What travels when a run is pickled, and what it becomes where it arrives."""

from __future__ import annotations

import os
import re
from typing import Any, Dict

from .._process import is_this_process

# Some of them for those who call runs: a worker may have no descriptor left by then.
from ..runs import state
from ..runs.globals import set_global_run
from ..runs.metadata import collect_metadata
from ..runs.state import WorkerState
from ..transports import selection


def dump(run: Any) -> Dict[str, Any]:
    """Make a run's payload: identity, service address and plain facts.

    It holds no settings, no API key and nothing that outlives the run's service.
    """
    tied = state.get_state(run)
    if isinstance(tied, WorkerState):  # a worker passes it on
        return {**tied.payload, **_config_of(run.__dict__["_config"])}
    if run.__dict__.get("_attach_id") or run.__dict__.get("_backend"):
        selection.publish(run)
    payload = describe(run)
    if payload["metadata"]["disabled"]:
        from ..runs.execute import is_json_like  # late: few runs are disabled

        payload["summary"] = {k: v for k, v in dict(run.summary).items() if is_json_like(v)}
    return payload


def describe(run: Any) -> Dict[str, Any]:
    """Write down what a run of this process is."""
    own, owned = run.__dict__, state.owner_state(run)
    owner = own.get("_init_pid", own.get("_pid", os.getpid()))
    shared = {} if owned.share is None else {"share": owned.share}
    return {
        **shared,
        "key": owned.key,
        "owner": owner,
        "process": owned.process,
        "attach_id": own.get("_attach_id"),
        "service": owned.service,
        "owner_file": owned.owner_file,
        "local_address": owned.local_address,
        "root_dir": getattr(own.get("_settings"), "root_dir", None),
        "finished": bool(own.get("_is_finished") or owned.over),
        "metadata": collect_metadata(run),
        **_config_of(own.get("_config") or run.config),
    }


def _config_of(config: Any) -> Dict[str, Any]:
    """Give the config, and what wandb notes there of the run, which pickling a config leaves out.

    wandb expects that of every run: a worker's media add to it, and send it with the config.
    """
    items = getattr(config, "__dict__", {}).get("_items", {})  # a disabled run's may be a dict
    notes = items.get("_wandb")
    if notes is None:
        return {"config": config}
    copied = {k: v.copy() if type(v) is dict else v for k, v in notes.copy().items()}
    return {"config": config, "notes": copied}


def load(payload: Dict[str, Any]) -> Any:
    """Find or make the run that a payload stands for.

    Returns:
        In the process that owns the run, or has loaded it before, the very
        same object; elsewhere a run that connects at first use.
    """
    if "notes" in payload:  # 0.1.0's configs hold them
        vars(payload["config"])["_items"]["_wandb"] = payload["notes"]
    run = state.lookup(payload["key"]) or _sent_back(payload)
    if run is not None:
        tied = state.get_state(run)
        if isinstance(tied, WorkerState):
            _take(run, tied, payload)
        return run
    if payload["metadata"]["disabled"]:
        from .disabled import load_disabled  # late: few runs are

        return load_disabled(payload)
    from wandb.sdk.wandb_run import Run

    run = Run.__new__(Run)
    config = payload["config"]
    run.__dict__.update(
        _attach_id=payload["attach_id"],
        _init_pid=payload["owner"],
        _is_finished=payload["finished"],
        _config=config,
    )
    state.bind(run, WorkerState(payload, selection.select(payload)))
    for name in ("callback", "artifact_callback"):
        callback = getattr(run, "_config_" + name, None)  # artifact_callback: since 0.12
        if callback is not None and "_" + name in config.__dict__:
            config.__dict__["_" + name] = callback
    return run


def adopt_attached_run(run: Any) -> None:
    """Make a run that has attached by its id one that this process borrows."""
    from ..transports.service import ServiceTransport  # late: not all releases need it

    data = describe(run)
    data["attach_id"], data["by_id"] = data["attach_id"] or data["metadata"]["id"], True
    match = re.match(r"\d+-(\d+)-", data["service"] or "")  # WANDB_SERVICE names its owner
    data["owner"] = int(match[1]) if match else None
    way = ServiceTransport(data)
    state.bind(run, WorkerState(data, way, state.Phase.CONNECTED))
    way.has_attached(run)


def _sent_back(payload: Dict[str, Any]) -> Any:
    """Find the run of this process that a worker has attached to by its id, or None."""
    if not payload.get("by_id") or not is_this_process(payload["owner"], payload.get("process")):
        return None
    for run in state.live_runs():
        tied = state.get_state(run)
        if tied and not tied.is_worker and collect_metadata(run)["id"] == payload["metadata"]["id"]:
            return run
    return None


def _take(run: Any, worker: WorkerState, payload: Dict[str, Any]) -> None:
    """Take over what the owner has changed since this process got the run."""
    if worker.phase is state.Phase.LEFT:  # a pool's next task
        resumed = worker.transport is not None and worker.transport.resume(run)
        worker.phase = state.Phase.CONNECTED if resumed else state.Phase.DETACHED
        set_global_run(run)
    if worker.phase is state.Phase.DETACHED:
        worker.transport = selection.select(payload)
    worker.payload = payload
    worker.metadata.update(payload["metadata"])
    vars(run.__dict__["_config"])["_items"].update(vars(payload["config"])["_items"])
