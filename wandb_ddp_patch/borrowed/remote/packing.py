"""A worker's call as bytes, and the files that its values stand for.

Images, audio and the like hold the path of a file on the machine that made them. Such a
path is pickled as a reference to the file, which travels before the call.
"""

from __future__ import annotations

import glob
import io
import os
import pickle
import sys
import uuid
from typing import Any, Dict, List, NamedTuple, Tuple

# Every Python that this package runs on has it; the owner's may be older than ours.
_PROTOCOL = 5
_PLAIN = frozenset((int, float, str, bool, type(None)))


class Reference(NamedTuple):
    """A file on the worker's machine, as the owner is told of it."""

    id: bytes
    path: str


class Packed(NamedTuple):
    """A call as bytes, and the files that are to be sent before."""

    body: bytes
    files: List[Reference]


def is_plain_row(args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> bool:
    """Say whether a call logs numbers and strings alone, as nearly all do."""
    row = args[0] if args else kwargs.get("data")
    return type(row) is dict and all(
        type(key) is str and type(value) in _PLAIN for key, value in row.items()
    )


def is_row(args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> bool:
    """Say whether a call logs what can be a row: then it need not be waited for."""
    row = args[0] if args else kwargs.get("data")
    return isinstance(row, dict) and all(type(key) is str for key in row)


def pack_plain(name: str, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> bytes:
    """Pickle a call that holds no files, or for who has them, too."""
    return pickle.dumps((name, args, kwargs), _PROTOCOL)


def pack(name: str, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Packed:
    """Pickle a call with all that it holds.

    Raises:
        TypeError: It holds what can't be pickled.
    """
    into = io.BytesIO()
    pickler = _Pickler(into, _PROTOCOL)
    try:
        pickler.dump((name, args, kwargs))
    except Exception as error:
        raise not_picklable(name, error) from error
    return Packed(into.getvalue(), list(pickler.files.values()))


def not_picklable(name: str, error: Exception) -> Exception:
    """Make the error for a call that holds what can't be pickled."""
    return TypeError(
        f"What run.{name}() was given can't be sent from this worker to the process"
        f" that called wandb.init(), because it can't be pickled: {error}"
    )


class _Pickler(pickle.Pickler):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.files: Dict[str, Reference] = {}

    def persistent_id(self, value: Any) -> Any:
        if type(value) is str:
            reference = self.files.get(value)
            return reference and (reference.id, os.path.basename(reference.path))
        # Media of any release. Their state, with the path, is pickled after them.
        state = getattr(value, "__dict__", None)
        if type(state) is dict and "_is_tmp" in state:
            path = state.get("_path")
            if isinstance(path, str) and os.path.isfile(path):
                self.files.setdefault(path, _reference(path))
        return None

    def reducer_override(self, value: Any) -> Any:
        # The owner may have neither this device nor torch. wandb logs a number, too.
        tensor: Any = getattr(sys.modules.get("torch"), "Tensor", ())
        if not isinstance(value, tensor):
            return NotImplemented
        if value.numel() == 1:
            number = value.item()
            return type(number), (number,)
        return value.detach().cpu().__reduce_ex__(_PROTOCOL)


def _reference(path: str) -> Reference:
    return Reference(uuid.uuid4().bytes, path)


def pack_save(
    glob_str: Any = None, base_path: Any = None, policy: str = "live", *args: Any, **kwargs: Any
) -> Packed:
    """Pickle a call of save(), with the files that it means on this machine.

    Raises:
        ValueError: A file is not below base_path.
    """
    if glob_str is None or "://" in os.fspath(str(glob_str)):
        return pack("save", (glob_str, base_path, policy, *args), kwargs)
    pattern = os.fsdecode(glob_str)
    if base_path is None:
        base_path = os.path.dirname(pattern) if os.path.isabs(pattern) else os.curdir
    base, pattern = os.path.abspath(os.fsdecode(base_path)), os.path.abspath(pattern)
    where = os.path.relpath(pattern, base)
    if where.split(os.sep)[0] == os.pardir:
        raise ValueError(f"{pattern} is not in {base}, which base_path names")
    paths = [path for path in sorted(glob.glob(pattern)) if os.path.isfile(path)]
    files = {os.path.relpath(path, base): _reference(path) for path in paths}
    parts = {
        tuple(name.split(os.sep)): (reference.id, os.path.basename(reference.path))
        for name, reference in files.items()
    }
    given = tuple(where.split(os.sep)), parts, policy
    return Packed(pickle.dumps(("save", given, kwargs), _PROTOCOL), list(files.values()))
