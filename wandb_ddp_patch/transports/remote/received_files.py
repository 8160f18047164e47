"""Files that come from a worker elsewhere, before the messages that name them.

They land below the run's folder, or in a staging folder of the run's own, and nowhere else,
whatever a message or the worker says.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from typing import TYPE_CHECKING, BinaryIO, Callable, Dict, NamedTuple, Optional

from . import records
from .wandb_paths import is_inside

if TYPE_CHECKING:
    from hashlib import _Hash

# The first byte of what announces a file: one below the run's folder, by its name there; one
# that the service reads from where it is; a folder of such files.
RUN_FILE, STAGED, FOLDER = b"R", b"S", b"D"
# What W&B's service itself writes into the run's folder.
_OF_SERVICE = (
    "conda-environment.yaml",
    "config.yaml",
    "diff.patch",
    "output.log",
    "requirements.txt",
    "wandb-metadata.json",
    "wandb-summary.json",
)


class _OpenFile(NamedTuple):
    """A file of which only a part has come."""

    name: str
    path: str
    file: BinaryIO
    checksum: _Hash


class ReceivedFiles:
    """The files of one worker.

    Args:
        run_folder: The folder of the run's files.
        on_error: Called with why a file could not be kept.
    """

    def __init__(self, run_folder: str, on_error: Callable[[str], None]) -> None:
        self._run_folder, self._on_error = os.path.abspath(run_folder), on_error
        self._staging: Optional[str] = None
        self._landed: Dict[str, str] = {}
        self._count = 0
        self._name = ""  # of the file that has begun last
        self._open: Optional[_OpenFile] = None

    def landing(self, path: str) -> Optional[str]:
        """Return where a file of the worker's is here; None where it has not come."""
        return self._landed.get(path)

    def receive(self, kind: int, body: bytes) -> None:
        """Process a record: FILE, DATA or END."""
        try:
            if kind == records.FILE:
                self._begin(body[:1], os.fsdecode(body[1:]))
            elif kind == records.DATA and self._open is not None:
                self._open.file.write(body)
                self._open.checksum.update(body)
            elif kind == records.END:
                self._end(body)
        except OSError as error:
            # It costs this file, and not the tunnel: the disk may be full, or a cleaner has
            # removed the folder.
            self._fail(f"the run's owner can't store it: {error}")

    def _begin(self, kind: bytes, name: str) -> None:
        self._abandon()
        self._name = name
        if kind == FOLDER:
            self._landed[name] = self._staging_folder()
            return
        path = self._place(kind, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # it may be a link to a file of the owner's, which is not to be written
        self._open = _OpenFile(name, path, open_new(path), hashlib.sha256())

    def _place(self, kind: bytes, name: str) -> str:
        if kind == RUN_FILE:
            return self._place_in_run(name)
        self._count += 1
        base = "".join(c if c.isalnum() or c in "._- " else "_" for c in os.path.basename(name))
        return os.path.join(self._staging_folder(), f"{self._count}-{base[-100:]}")

    def _place_in_run(self, name: str) -> str:
        path = os.path.normpath(os.path.join(self._run_folder, name))
        # A link in the run's folder may lead out of it.
        folder, real = os.path.realpath(self._run_folder), os.path.realpath(os.path.dirname(path))
        if not is_inside(name) or os.path.commonpath([real, folder]) != folder:
            raise OSError(f"{name!r} is not below the run's folder")
        if os.path.relpath(path, self._run_folder) in _OF_SERVICE:
            raise OSError("W&B itself writes a file of that name")
        return path

    def _staging_folder(self) -> str:
        if self._staging is None or not os.path.isdir(self._staging):
            # Beside the run's files, not in the temporary folder: what is logged offline is
            # uploaded from there one day.
            beside = os.path.join(os.path.dirname(self._run_folder), "staged")
            os.makedirs(beside, exist_ok=True)
            self._staging = tempfile.mkdtemp(dir=beside)
        return self._staging

    def _end(self, digest: bytes) -> None:
        if self._open is None:
            return
        self._open.file.close()
        if self._open.checksum.digest() != digest:
            self._fail("it did not arrive complete")
        else:
            self._landed[self._open.name] = self._open.path
            self._open = None

    def _fail(self, why: str) -> None:
        self._landed.pop(self._name, None)
        self._abandon()
        self._on_error(f"the file {self._name} is missing in the run: {why}")

    def _abandon(self) -> None:
        if self._open is not None:
            with contextlib.suppress(OSError):
                self._open.file.close()
            with contextlib.suppress(OSError):
                os.unlink(self._open.path)
            self._open = None

    def close(self) -> None:
        """Remove what was not whole, and folders that are empty."""
        self._abandon()
        if self._staging is not None:
            with contextlib.suppress(OSError):  # W&B's service has not read all of it yet
                os.removedirs(self._staging)


def open_new(path: str) -> BinaryIO:
    """Open a file that is not there yet for writing."""
    return open(path, "xb")
