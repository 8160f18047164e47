"""The paths that wandb's messages hold: where they are, and what they mean.

W&B's service opens files that messages name, some to read, some to delete. No other field
of the messages that a worker may send is used as a path, in any release from 0.13 to 0.31.
"""

from __future__ import annotations

import enum
import os
from typing import TYPE_CHECKING, Dict, Iterator, List, NamedTuple, Tuple

from .wandb_protocol import has_field

if TYPE_CHECKING:
    from google.protobuf.message import Message


class PathType(enum.Enum):
    """What a path in a message means."""

    RUN_FILE = "the name of a file below the run's folder; a pattern, maybe"
    JOB_FILE = "the name of a file below _wandb_configs in the run's folder"
    FILE = "a file that the service reads, and deletes if it is in the staging folder"
    FOLDER = "a folder"
    MANIFEST = "a file that lists an artifact's files, which the service reads and deletes"
    UNUSED = "a path that no release uses"


_MANIFEST_FIELDS = [
    ("contents.local_path", PathType.FILE),
    ("manifest_file_path", PathType.MANIFEST),
]

# The fields that hold paths, by the kind of the message.
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


class PathField(NamedTuple):
    """A field that holds a path, in the message that has it."""

    holder: Message
    name: str
    type: PathType

    @property
    def path(self) -> str:
        """The path that it holds."""
        return str(getattr(self.holder, self.name))

    def set(self, path: str) -> None:
        """Put another path into it."""
        setattr(self.holder, self.name, path)


def path_fields(kind: str, body: Message) -> Iterator[PathField]:
    """Iterate over the fields of a message that hold a path."""
    for field, type_ in FIELDS.get(kind, ()):
        *parents, name = field.split(".")
        for holder in _descend(body, parents):
            if has_field(holder, name) and getattr(holder, name):
                yield PathField(holder, name, type_)


def _descend(message: Message, names: List[str]) -> Iterator[Message]:
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
