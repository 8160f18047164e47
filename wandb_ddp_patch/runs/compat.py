"""What single releases of wandb lack when a run attaches."""

from __future__ import annotations

import copy
import importlib
from types import SimpleNamespace
from typing import Any

from .payload_format import Metadata


def settings_of(run: Any, metadata: Metadata) -> Any:
    """Return settings for a run that attaches, where wandb forgets to make them.

    That is from 0.17.6 to 0.18.1.
    """
    import wandb

    settings = copy.copy(wandb.setup().settings)
    settings.update({"run_id": run._attach_id, "_offline": metadata["offline"]})
    return settings


def offline_answer(metadata: Metadata) -> Any:
    """Return the answer that attaching waits for, where the service gives none.

    Attaching asks for the run's record. From 0.13.0 to 0.15.3 the service hands that
    to a part of it that gets nothing in offline mode, so that each worker's
    first call fails after 30 s, though all else works.

    Returns:
        What waiting for the service's answer would have returned, or None
        where the service does answer.
    """
    if not metadata["offline"]:
        return None
    handler = importlib.import_module("wandb.sdk.internal.handler")
    if "_dispatch_record" not in handler.HandleManager.handle_request_attach.__code__.co_names:
        return None
    from wandb.proto import wandb_internal_pb2 as pb

    record = pb.RunRecord(
        run_id=metadata["id"],
        entity=metadata["entity"],
        project=metadata["project"],
        display_name=metadata["name"],
        run_group=metadata["group"],
    )
    return SimpleNamespace(response=SimpleNamespace(attach_response=pb.AttachResponse(run=record)))
