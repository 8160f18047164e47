"""Files that messages of wandb's client name, on their way to the process that owns the run.

A file's bytes are sent before the message that names it, as they are at that moment.
"""

from __future__ import annotations

import contextlib
import glob
import gzip
import hashlib
import json
import os
from typing import TYPE_CHECKING, Any, Iterator, List, Mapping, NamedTuple, Tuple

from ...tunnel.tls import ProtocolError
from . import records
from .received_files import FOLDER, RUN_FILE, STAGED
from .wandb_paths import FIELDS, PathField, PathType, path_fields
from .wandb_protocol import kind_and_body, parse_request

if TYPE_CHECKING:
    from google.protobuf.message import Message

_PIECE_BYTES = 1 << 18
# Where wandb keeps what a job was configured with, below the folder of the run's files.
_JOB_FOLDER = "_wandb_configs"


class SentFile(NamedTuple):
    """A file, or folder, of this worker's that the owner is sent.

    Attributes:
        kind: Where it belongs: ``RUN_FILE``, ``STAGED`` or ``FOLDER``, see received_files.py.
        name: The name by which messages call it.
        path: Where it is here; empty for a folder, of which only the name is sent.
    """

    kind: bytes
    name: str
    path: str

    def records(self) -> Iterator[bytes]:
        """Yield the records that carry it.

        Raises:
            OSError: It can't be read.
        """
        if self.kind == FOLDER:
            yield records.encode(records.FILE, self.kind + os.fsencode(self.name))
            return
        digest = hashlib.sha256()
        with open(self.path, "rb") as file:
            yield records.encode(records.FILE, self.kind + os.fsencode(self.name))
            while True:
                piece = file.read(_PIECE_BYTES)
                if not piece:
                    break
                digest.update(piece)
                yield records.encode(records.DATA, piece)
        yield records.encode(records.END, digest.digest())


def has_files(request: Message) -> bool:
    """Return True if a request of the client's is of a kind that names files."""
    if request.record_publish.request.HasField("partial_history"):
        return False  # nearly all are rows
    return kind_and_body(request)[0] in FIELDS


def prepare(message: bytes, files_dir: str) -> Tuple[bytes, List[SentFile]]:
    """Return a request as it is to be sent, and the files that are to be sent before it.

    Args:
        message: The request.
        files_dir: The folder of the run's files in this process.

    Raises:
        OSError: A list of files that the request names can't be read.
        ProtocolError: The request, or that list, makes no sense.
    """
    message = inline_manifest(message)
    fields = list(path_fields(*kind_and_body(parse_request(message))))
    files: List[SentFile] = []
    # An artifact's staging folder is announced as well: the owner refuses a message that names a
    # folder which it does not know. So it does with TensorBoard's, which come without files.
    if any(field.type is PathType.FILE for field in fields):
        files += [SentFile(FOLDER, f.path, "") for f in fields if f.type is PathType.FOLDER]
    for field in fields:
        files += _files(field, files_dir)
    return message, list(dict.fromkeys(files))


def _files(field: PathField, files_dir: str) -> Iterator[SentFile]:
    path = field.path
    if field.type is PathType.FILE:
        yield SentFile(STAGED, path, path)
    elif field.type in (PathType.RUN_FILE, PathType.JOB_FILE):
        name = f"{_JOB_FOLDER}/{path}" if field.type is PathType.JOB_FILE else path
        for found in find_run_files(files_dir, name):
            yield SentFile(RUN_FILE, found.replace(os.sep, "/"), os.path.join(files_dir, found))


def find_run_files(folder: str, name: str) -> List[str]:
    """Return the names of the files in a run's folder that such a name in a message means.

    Some releases send the names of media escaped as patterns, some the pattern that was
    given to save(), and some plain names that may look like patterns.
    """
    if os.path.isfile(os.path.join(folder, name)):
        return [name]
    found = glob.glob(os.path.join(glob.escape(folder), name), recursive=True)
    return sorted(os.path.relpath(path, folder) for path in found if os.path.isfile(path))


def inline_manifest(message: bytes) -> bytes:
    """Return a request with the artifact's list of files in it.

    wandb writes the list of an artifact of more than 100,000 files to a file, whose content
    the owner can't check as it checks a message's. Like the service, this deletes the file.

    Raises:
        ProtocolError: The file is not such a list.
        OSError: The file can't be read.
    """
    request = parse_request(message)
    manifests = [f for f in path_fields(*kind_and_body(request)) if f.type is PathType.MANIFEST]
    for field in manifests:
        _read_manifest(field.path, field.holder)
        with contextlib.suppress(OSError):
            os.unlink(field.path)
        field.set("")
    return bytes(request.SerializeToString()) if manifests else message


def _read_manifest(path: str, manifest: Message) -> None:
    """Add the entries in a file of wandb's to a message."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            try:
                _add_entry(json.loads(line), manifest.contents.add())
            except (AttributeError, TypeError, ValueError) as error:
                raise ProtocolError(f"{path} does not list an artifact's files: {error}") from None


def _add_entry(entry: Mapping[str, Any], message: Message) -> None:
    message.path, message.digest = entry["path"], entry["digest"]
    # The file names it as the server does, the message as protobuf does.
    names = {"birthArtifactID": "birth_artifact_id"}
    for key in ("size", "ref", "local_path", "birthArtifactID", "skip_cache"):
        if entry.get(key):
            setattr(message, names.get(key, key), entry[key])
    for key, value in (entry.get("extra") or {}).items():
        extra = message.extra.add()
        extra.key, extra.value_json = key, json.dumps(value)
