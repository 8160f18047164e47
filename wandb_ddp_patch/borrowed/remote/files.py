"""Files that come from workers, in the process that owns the run.

They come in pieces, into a folder of their own, and are used once they are known to be
whole. Media are copied into the run's folder by wandb, as ever; what save() means is put
there as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import re
import shutil
import struct
import tempfile
from typing import Any, Dict, List, Optional, Tuple

ID_BYTES = 16
_SUM = struct.Struct(">32s")


class DamagedError(Exception):
    """A file that a call means has not come as it was sent."""


def piece(file: bytes, content: bytes) -> bytes:
    """Make the body of an item that brings a piece of a file."""
    return file + content


def last_piece(file: bytes, digest: bytes) -> bytes:
    """Make the body of the item that says that a file is whole."""
    return file + _SUM.pack(digest)


class Files:
    """The files of one worker that no call has used yet."""

    def __init__(self) -> None:
        self._folder: Optional[str] = None
        self._sums: Dict[bytes, Any] = {}
        self._whole: Dict[bytes, str] = {}

    def _path(self, file: bytes) -> str:
        if self._folder is None:
            self._folder = tempfile.mkdtemp(prefix="wandb_ddp_patch-files-")
        return os.path.join(self._folder, file.hex())

    def add(self, body: bytes) -> None:
        """Take a piece in."""
        file, content = body[:ID_BYTES], body[ID_BYTES:]
        with open(self._path(file), "ab") as into:
            into.write(content)
        self._sums.setdefault(file, hashlib.sha256()).update(content)

    def end(self, body: bytes) -> None:
        """Note that a file is whole, if it is what was sent."""
        file, digest = body[:ID_BYTES], body[ID_BYTES:]
        found = self._sums.pop(file, hashlib.sha256())
        path = self._path(file)
        if found.digest() == digest:
            with open(path, "ab"):
                self._whole[file] = path  # also if it is empty

    def use(self, file: bytes, name: str) -> str:
        """Give the path of a file that has come, named so that it ends as it did there."""
        path = self._whole.pop(file, None)
        if path is None:
            raise DamagedError(f"the file {name} has not arrived whole")
        folder = path + "-"
        os.mkdir(folder)
        name = re.sub(r'[<>:"|?*]', "_", os.path.basename(name))  # Windows has no such names
        return shutil.move(path, os.path.join(folder, name))

    def load(self, body: bytes) -> Tuple[Any, List[str]]:
        """Unpickle a call; return it, and the files that it uses."""
        unpickler = _Unpickler(io.BytesIO(body), self)
        return unpickler.load(), unpickler.used

    def close(self) -> None:
        """Remove what is left."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: io.BytesIO, files: Files) -> None:
        super().__init__(content)
        self._files = files
        self._known: Dict[bytes, str] = {}

    def persistent_load(self, reference: Any) -> str:
        file, name = reference
        if file not in self._known:  # a row may hold it twice
            self._known[file] = self._files.use(file, name)
        return self._known[file]

    @property
    def used(self) -> List[str]:
        return list(self._known.values())


def remove(paths: List[str]) -> None:
    """Remove files that a call has used, where wandb has not moved them."""
    for path in paths:
        shutil.rmtree(os.path.dirname(path), ignore_errors=True)


def save(run: Any, files: Files, where: Any, parts: Dict[Any, Any], policy: str) -> Any:
    """Put files into a run's folder, and have wandb save them.

    Args:
        where: What was to be saved, below the base path, as the parts of a path.
        parts: References to the files, by the parts of their paths.
        policy: As save() takes it.
    """
    for names, (file, name) in parts.items():
        target = _below(run.dir, names)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target)  # it may be a link to a file of the owner's
        came = files.use(file, name)
        shutil.move(came, target)
        remove([came])
    return run.save(os.path.join(run.dir, *where), base_path=run.dir, policy=policy)


def _below(folder: str, names: Any) -> str:
    """Give the path of a file below a folder.

    Raises:
        ValueError: It would lie elsewhere: this system may read the names otherwise than the
            worker's, which has split the path.
    """
    path = os.sep.join([os.path.abspath(folder), *names])
    # Windows takes what follows a colon for another content of the same file.
    one_each = all(os.path.basename(n) == n and (os.name != "nt" or ":" not in n) for n in names)
    # It changes what is "..", and on Windows NUL, or a name that ends with a dot.
    if not one_each or os.path.abspath(path) != path:
        raise ValueError(f"{'/'.join(names)} is not below base_path, as the owner's system has it")
    return path
