"""What single releases of wandb lack when a run attaches."""

from __future__ import annotations

import copy
import importlib
from types import SimpleNamespace
from typing import Any, Dict


def settings_of(run: Any, known: Dict[str, Any]) -> Any:
    """Make settings for a run that attaches, where wandb forgets to (0.17.6 to 0.18.1).

    Args:
        run: The run that attaches.
        known: What it knows of itself: see facts.py.
    """
    import wandb

    settings = copy.copy(wandb.setup().settings)
    settings.update({"run_id": run._attach_id, "_offline": known["offline"]})
    return settings


def offline_answer(known: Dict[str, Any]) -> Any:
    """Answer the question that attaching asks, where the service drops it.

    It asks for the run's record. From 0.13.0 to 0.15.3 the service hands that
    to a part of it that gets nothing in offline mode, so that each worker's
    first call fails after 30 s, though all else works.

    Args:
        known: What the run that attaches knows of itself.

    Returns:
        What waiting for the service's answer would have returned, or None
        where the service does answer.
    """
    if not known["offline"]:
        return None
    handler = importlib.import_module("wandb.sdk.internal.handler")
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
