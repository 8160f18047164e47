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
    run = _given(run)
    if get_field(run, "disabled"):
        return None
    owned = (
        state.owner_state(run) if not isinstance(state.get_state(run), state.WorkerState) else None
    )
    if owned is None:
        raise state.usage_error("share() is for the process that called wandb.init()")
    if owned.share is None:
        why = selection.sharing_problem(run)
        if why is not None:
            raise state.usage_error(why)
        selection.publish(run)
        if not owned.shared:
            raise state.usage_error("a run that is finished can't be shared")
    from ..transports.remote import shared_runs  # late: only runs that are shared need it

    shared = shared_runs.listen_tcp(owned, host, port)
    where = "[%s]" if ":" in shared["host"] else "%s"
    return f"{where % shared['host']}:{shared['port']}"


def _given(run: Any) -> Any:
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
        raise ImportError("wandb_ddp_patch shares runs of wandb: pip install wandb") from None
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
        raise ImportError("wandb_ddp_patch.broadcast() needs a PyTorch with torch.distributed")
    where = [host_fingerprint()]
    dist.broadcast_object_list(where, src=src, group=group)
    here = [False for _ in range(dist.get_world_size(group))]
    dist.all_gather_object(here, is_same_host(where[0]), group=group)
    sent = [_packed(run, not all(here)) if dist.get_rank() == src else None]
    dist.broadcast_object_list(sent, src=src, group=group)
    wandb = _wandb()  # its modules are needed to load the run
    arrived = pickle.loads(sent[0])  # type: ignore[arg-type]
    if isinstance(arrived, Exception):
        raise arrived
    if not get_field(arrived, "disabled"):
        set_global_run(arrived)
    elif wandb.run is None:
        wandb.run = arrived
    return arrived


def _packed(run: Any, spans_machines: bool) -> bytes:
    # Whatever happens, the other ranks must not wait for ever.
    try:
        run = _given(run)
        if isinstance(state.get_state(run), state.WorkerState) or get_field(run, "disabled"):
            pass
        elif spans_machines:
            share(run, None, 0)
        return pickle.dumps(run)
    except Exception as error:
        return pickle.dumps(picklable_error(error))
