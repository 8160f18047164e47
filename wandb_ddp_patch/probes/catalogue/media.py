"""Artifacts, tables that refer to one, and other media."""

from __future__ import annotations

import copy
import os
import pickle
from typing import Any, Dict, List

from ..multiprocess import in_worker
from ..offline_run import API_KEY, offline_run
from ..registry import check, probe

_SECRET = "a-secret-of-the-environment"


def _artifact() -> Any:
    import wandb

    with open("file.txt", "w", encoding="utf-8") as file:
        file.write("text")
    artifact = wandb.Artifact("artifact", "dataset", metadata={"key": 1})
    artifact.add_file("file.txt")
    return artifact


def _read_artifact(artifact: Any) -> List[Any]:
    entries = artifact.manifest.entries
    return [artifact.name, artifact.metadata, artifact.digest, sorted(entries)]


def _check_payload(thing: Any) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps(thing, protocol)
        for secret in (API_KEY, _SECRET):
            check(secret.encode() not in data, "its pickle holds the API key or the environment")
        check(b"settings" not in data.lower(), "its pickle holds settings")


@probe(fails=r"_createenviron\.<locals>|holds settings|holds the API key")
def media_artifact() -> None:
    """An artifact can be copied, pickled and sent to a worker, before and after it is logged."""
    os.environ["WANDB_DDP_PATCH_PROBE"] = _SECRET
    with offline_run() as run:
        artifact = _artifact()
        for _ in range(2):
            _check_payload(artifact)
            expected = _read_artifact(artifact)
            for copied in (copy.copy(artifact), copy.deepcopy(artifact)):
                check(_read_artifact(copied) == expected, "the copy differs")
            got = in_worker(_read_artifact, artifact)
            check(got == expected, f"got {got}")
            run.log_artifact(artifact)


@probe(fails=r"_createenviron\.<locals>|holds settings|holds the API key")
def media_logged() -> None:
    """A logged HTML page and table can be copied, pickled and sent to a worker."""
    import wandb

    os.environ["WANDB_DDP_PATCH_PROBE"] = _SECRET
    with offline_run() as run:
        table = wandb.Table(columns=["x", "y"], data=[[1, 2], [3, 4]])
        media: Dict[str, Any] = {"table": table, "html": wandb.Html("<b>bold</b>")}
        run.log({"html": media["html"]})
        # In an artifact of ours: run.log of a table never returns offline on 0.18.7.
        artifact = _artifact()
        artifact.add(table, "table")
        run.log_artifact(artifact)
        _check_payload(media)
        expected = _read_media(media)
        check(_read_media(copy.deepcopy(media)) == expected, "the copy differs")
        got = in_worker(_read_media, media)
        check(got == expected, f"got {got}")


def _read_media(media: Dict[str, Any]) -> List[Any]:
    return [media["table"].data, media["html"].html]
