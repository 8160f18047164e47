"""What travels when a run is pickled, and what it becomes where it arrives."""

from __future__ import annotations

import os
import re
from typing import Any, Dict

# Some of them for those who call runs: a worker may have no descriptor left by then.
from . import descriptors, link, steps, ways  # noqa: F401
from .current import make_current
from .facts import facts
from .link import Borrowed
from .processes import is_me


def of(run: Any) -> Dict[str, Any]:
    """Make a run's payload: identity, service address and plain facts.

    It holds no settings, no API key and nothing that outlives the run's service.
    """
    tied = link.of(run)
    if isinstance(tied, Borrowed):  # a worker passes it on
        return {**tied.payload, **_config_of(run.__dict__["_config"])}
    if run.__dict__.get("_attach_id") or run.__dict__.get("_backend"):
        ways.share(run)
    payload = written(run)
    if payload["known"]["disabled"]:
        from .making import is_plain  # late: few runs are disabled

        payload["summary"] = {k: v for k, v in dict(run.summary).items() if is_plain(v)}
    return payload


def written(run: Any) -> Dict[str, Any]:
    """Write down what a run of this process is."""
    own, owned = run.__dict__, link.own(run)
    owner = own.get("_init_pid", own.get("_pid", os.getpid()))
    shared = {} if owned.share is None else {"share": owned.share}
    return {
        **shared,
        "key": owned.key,
        "owner": owner,
        "process": owned.process,
        "attach_id": own.get("_attach_id"),
        "service": owned.service,
        "marker": owned.marker,
        "relay": owned.relay,
        "root_dir": getattr(own.get("_settings"), "root_dir", None),
        "finished": bool(own.get("_is_finished") or owned.over),
        "known": facts(run),
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
    run = link.find(payload["key"]) or _sent_back(payload)
    if run is not None:
        tied = link.of(run)
        if isinstance(tied, Borrowed):
            _take(run, tied, payload)
        return run
    if payload["known"]["disabled"]:
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
    link.tie(run, Borrowed(payload, ways.home(payload)))
    for name in ("callback", "artifact_callback"):
        callback = getattr(run, "_config_" + name, None)  # artifact_callback: since 0.12
        if callback is not None and "_" + name in config.__dict__:
            config.__dict__["_" + name] = callback
    return run


def attached(run: Any) -> None:
    """Make a run that has attached by its id one that this process borrows."""
    from .service import Service  # late: not all releases need it

    data = written(run)
    data["attach_id"], data["by_id"] = data["attach_id"] or data["known"]["id"], True
    match = re.match(r"\d+-(\d+)-", data["service"] or "")  # WANDB_SERVICE names its owner
    data["owner"] = int(match[1]) if match else None
    way = Service(data)
    link.tie(run, Borrowed(data, way, link.CONNECTED))
    way.has_attached(run)


def _sent_back(payload: Dict[str, Any]) -> Any:
    """Find the run of this process that a worker has attached to by its id, or None."""
    if not payload.get("by_id") or not is_me(payload["owner"], payload.get("process")):
        return None
    for run in link.runs():
        tied = link.of(run)
        if tied and not tied.borrowed and facts(run)["id"] == payload["known"]["id"]:
            return run
    return None


def _take(run: Any, borrowed: Borrowed, payload: Dict[str, Any]) -> None:
    """Take over what the owner has changed since this process got the run."""
    if borrowed.state is link.LEFT:  # a pool's next task
        resumed = borrowed.way is not None and borrowed.way.resume(run)
        borrowed.state = link.CONNECTED if resumed else link.APART
        make_current(run)
    if borrowed.state is link.APART:
        borrowed.way = ways.home(payload)
    borrowed.payload = payload
    borrowed.known.update(payload["known"])
    vars(run.__dict__["_config"])["_items"].update(vars(payload["config"])["_items"])
