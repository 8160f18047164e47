"""The paths that wandb's messages hold: where they are, and what they are of.

W&B's service opens files that messages name, some to read, some to delete. No other field
of the messages that a worker may send is used as a path, in any release from 0.13 to 0.31.
"""

from __future__ import annotations

import contextlib
import enum
import glob
import gzip
import json
import os
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Tuple

from .wandb_protocol import ProtocolError, has_field, kind_and_body, parse_request


class PathType(enum.Enum):
    """What a path in a message means."""

    RUN_FILE = "the name of a file below the run's folder; a pattern, maybe"
    JOB_FILE = "the name of a file below _wandb_configs in the run's folder"
    FILE = "a file that the service reads, and deletes if it is in the staging folder"
    FOLDER = "a folder"
    MANIFEST = "a file that lists an artifact's files, which the service reads and deletes"
    UNUSED = "a path that no release uses"


class NamedPath(NamedTuple):
    """A path in a message.

    Attributes:
        policy: When the service uploads a file of the run: "now", "end", or "live", which is
            whenever it changes.
    """

    path: str
    type: PathType
    policy: str = ""


_MANIFEST_FIELDS = [
    ("contents.local_path", PathType.FILE),
    ("manifest_file_path", PathType.MANIFEST),
]

FIELDS: Dict[str, List[Tuple[str, PathType]]] = {
    "record.artifact": [(f"manifest.{name}", type_) for name, type_ in _MANIFEST_FIELDS],
    "record.files": [
        ("files.path", PathType.RUN_FILE),
        ("files.external_path", PathType.UNUSED),
    ],
    "record.tbrecord": [
        ("log_dir", PathType.FOLDER),  # from there the service goes on to read
        ("root_dir", PathType.FOLDER),
        ("save_path", PathType.RUN_FILE),
    ],
    "request.job_input": [("input_source.file.path", PathType.JOB_FILE)],
    "request.log_artifact": [
        ("staging_dir", PathType.FOLDER),
        *[(f"artifact.manifest.{name}", type_) for name, type_ in _MANIFEST_FIELDS],
    ],
}
"""The fields of paths, by the kind of the message."""


class PathField(NamedTuple):
    """A field that holds a path, in the message that has it."""

    holder: Any
    name: str
    type: PathType

    @property
    def path(self) -> str:
        """The path that it holds."""
        return str(getattr(self.holder, self.name))

    @property
    def policy(self) -> str:
        """When a file of the run is uploaded."""
        if not has_field(self.holder, "policy"):
            return ""
        values = self.holder.DESCRIPTOR.fields_by_name["policy"].enum_type.values_by_number
        return str(values[self.holder.policy].name).lower()

    def set(self, path: str) -> None:
        """Put another path into it."""
        setattr(self.holder, self.name, path)


def path_fields(kind: str, body: Any) -> Iterator[PathField]:
    """Iterate over the fields of a message that hold a path."""
    for field, type_ in FIELDS.get(kind, ()):
        *parents, name = field.split(".")
        for holder in _descend(body, parents):
            if has_field(holder, name) and getattr(holder, name):
                yield PathField(holder, name, type_)


def _descend(message: Any, names: List[str]) -> Iterator[Any]:
    if not names:
        yield message
    elif has_field(message, names[0]):
        below = getattr(message, names[0])
        for one in below if hasattr(below, "add") else [below]:
            yield from _descend(one, names[1:])


def is_inside(name: str) -> bool:
    """Return True if a name can only mean something below the folder to which it belongs."""
    if os.name == "nt":
        if ":" in name:  # a drive, or another content of the same file
            return False
        name = name.replace("\\", "/")
    return bool(name) and name[0] != "/" and "\0" not in name and ".." not in name.split("/")


def paths_in_request(message: bytes) -> List[NamedPath]:
    """Return the paths that a request names, for the worker's end.

    What must be where the service looks before the request arrives: all but folders.

    Raises:
        ProtocolError: The message can't be read.
    """
    request = parse_request(message)
    # Nearly all messages are rows.
    if request.record_publish.request.HasField("partial_history"):
        return []
    return [
        NamedPath(field.path, field.type, field.policy)
        for field in path_fields(*kind_and_body(request))
    ]


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
    """Return a request with the artifact's list of files in it, for the worker's end.

    wandb writes the list of an artifact of more than 100,000 files to a file, whose content
    can't be checked as a message's can. Like the service, this deletes the file.

    Raises:
        ProtocolError: The file is not such a list.
        OSError: The file can't be read.
    """
    request = parse_request(message)
    changed = False
    for field in path_fields(*kind_and_body(request)):
        if field.type is PathType.MANIFEST:
            _read_manifest(field.path, field.holder)
            with contextlib.suppress(OSError):
                os.unlink(field.path)
            field.set("")
            changed = True
    return bytes(request.SerializeToString()) if changed else message


def _read_manifest(path: str, manifest: Any) -> None:
    """Add the entries in a file of wandb's to a message."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            try:
                _add_entry(json.loads(line), manifest.contents.add())
            except (AttributeError, TypeError, ValueError) as error:
                raise ProtocolError(f"{path} does not list an artifact's files: {error}") from None


def _add_entry(record: Mapping[str, Any], entry: Any) -> None:
    entry.path, entry.digest = record["path"], record["digest"]
    # The file names it as the server does, the message as protobuf does.
    names = {"birthArtifactID": "birth_artifact_id"}
    for key in ("size", "ref", "local_path", "birthArtifactID", "skip_cache"):
        if record.get(key):
            setattr(entry, names.get(key, key), record[key])
    for key, value in (record.get("extra") or {}).items():
        extra = entry.extra.add()
        extra.key, extra.value_json = key, json.dumps(value)
