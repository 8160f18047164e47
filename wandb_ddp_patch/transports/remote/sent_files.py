"""Files that messages of wandb's client name, on their way to the process that owns the run.

A file's bytes go before the message that names it, as they are at that moment.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any, Iterator, List, Tuple

from . import records, wandb_paths
from .received_files import FOLDER, RUN_FILE, STAGED
from .wandb_paths import NamedPath, PathType
from .wandb_protocol import kind_and_body

_PIECE_BYTES = 1 << 18
# Where wandb keeps what a job was configured with, below the folder of the run's files.
_JOB_FOLDER = "_wandb_configs"


def has_files(request: Any) -> bool:
    """Return True if a request of the client's is of a kind that names files."""
    if request.record_publish.request.HasField("partial_history"):
        return False  # nearly all are rows
    return kind_and_body(request)[0] in wandb_paths.FIELDS


def prepare(message: bytes, files_dir: str) -> Tuple[bytes, List[Tuple[bytes, str, str]]]:
    """Return a request as it is to be sent, and the files that are to be sent before.

    Args:
        message: The request.
        files_dir: The folder of the run's files in this process.

    Returns:
        The request, and of each file its kind (see received_files.py), the name by which it
        is announced, and its path here, which is empty for a folder.

    Raises:
        OSError: A list of files that the request names can't be read.
    """
    message = wandb_paths.inline_manifest(message)
    files: List[Tuple[bytes, str, str]] = []
    named = wandb_paths.paths_in_request(message)
    if any(each.type is PathType.FILE for each in named):
        files += [(FOLDER, each.path, "") for each in named if each.type is PathType.FOLDER]
    for each in named:
        files += _files(each, files_dir)
    return message, list(dict.fromkeys(files))


def _files(named: NamedPath, files_dir: str) -> Iterator[Tuple[bytes, str, str]]:
    path = named.path
    if named.type is PathType.FILE:
        yield STAGED, path, path
    elif named.type in (PathType.RUN_FILE, PathType.JOB_FILE):
        name = f"{_JOB_FOLDER}/{path}" if named.type is PathType.JOB_FILE else path
        for found in wandb_paths.find_run_files(files_dir, name):
            yield RUN_FILE, found.replace(os.sep, "/"), os.path.join(files_dir, found)


def read(kind: bytes, name: str, path: str) -> Iterator[bytes]:
    """Yield the records that carry a file.

    Raises:
        OSError: It can't be read.
    """
    if kind == FOLDER:
        yield records.encode(records.FILE, kind + os.fsencode(name))
        return
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        yield records.encode(records.FILE, kind + os.fsencode(name))
        while True:
            piece = file.read(_PIECE_BYTES)
            if not piece:
                break
            digest.update(piece)
            yield records.encode(records.DATA, piece)
    yield records.encode(records.END, digest.digest())
