"""share() and broadcast(): a run of this process for other machines."""

from __future__ import annotations

import pickle
import sys
from typing import Any, Optional

from .._process import host_fingerprint, is_same_host
from ..runs import state
from ..runs.execute import picklable_error
from ..runs.globals import set_global_run
from ..runs.metadata import get_field
from ..transports import selection


def share(run: Any, host: Optional[str], port: int) -> Optional[str]:
    """See wandb_ddp_patch.share."""
    run = _run_or_global(run)
    if get_field(run, "disabled"):
        return None
    if isinstance(state.get_state(run), state.WorkerState):
        raise state.usage_error("share() has to be called in the process that called wandb.init()")
    owned = state.ensure_owner_state(run)
    if owned.share is None:
        why = selection.sharing_problem(run)
        if why is not None:
            raise state.usage_error(why)
        selection.publish(run)
        if not owned.published:
            raise state.usage_error("a run that is finished can't be shared")
    from ..transports.remote import shared_runs  # late: only runs that are shared need it

    told = shared_runs.listen_tcp(owned, host, port)
    host = f"[{told['host']}]" if ":" in told["host"] else told["host"]  # IPv6
    return f"{host}:{told['port']}"


def _run_or_global(run: Any) -> Any:
    run = run if run is not None else getattr(sys.modules.get("wandb"), "run", None)
    if run is None:
        _wandb()  # nobody may have imported it
        raise state.usage_error("there is no run: call wandb.init() first")
    return run


def _wandb() -> Any:
    try:
        import wandb.errors
    except ModuleNotFoundError as error:
        if error.name != "wandb":
            raise
        raise ImportError("sharing a run needs wandb: pip install wandb") from None
    return wandb


def broadcast(run: Any, src: int, group: Any) -> Any:
    """See wandb_ddp_patch.broadcast."""
    try:
        import torch.distributed as dist  # late: it is only needed here
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError("wandb_ddp_patch.broadcast() needs PyTorch: pip install torch") from None
    if not dist.is_available():
        raise ImportError("wandb_ddp_patch.broadcast() needs PyTorch with torch.distributed")
    # Whether the group spans machines: each rank says whether it is on that of rank src.
    host = [host_fingerprint()]
    dist.broadcast_object_list(host, src=src, group=group)
    here = [False for _ in range(dist.get_world_size(group))]
    dist.all_gather_object(here, is_same_host(host[0]), group=group)
    sent = [_pickle(run, not all(here)) if dist.get_rank() == src else None]
    dist.broadcast_object_list(sent, src=src, group=group)
    wandb = _wandb()  # its modules are needed to load the run
    received = pickle.loads(sent[0])  # type: ignore[arg-type]
    if isinstance(received, Exception):
        raise received
    if not get_field(received, "disabled"):
        set_global_run(received)
    elif wandb.run is None:
        wandb.run = received
    return received


def _pickle(run: Any, spans_machines: bool) -> bytes:
    # Whatever happens, something is sent, if only the error: else the other ranks would wait
    # for ever in broadcast_object_list().
    try:
        run = _run_or_global(run)
        if isinstance(state.get_state(run), state.WorkerState) or get_field(run, "disabled"):
            pass
        elif spans_machines:
            share(run, None, 0)
        return pickle.dumps(run)
    except Exception as error:
        return pickle.dumps(picklable_error(error))
