"""A reader of a run's transaction log, the .wandb file.

wandb shipped one of its own until 0.30 or so. The format has not changed since 0.10: a
header of 7 bytes, then LevelDB's log format
(https://github.com/google/leveldb/blob/main/doc/log_format.md) with a plain
CRC32 of type and data, and a protobuf ``Record`` in each entry.
"""

from __future__ import annotations

import glob
import os
import struct
import zlib
from typing import Any, Dict, Iterator, List, Optional

_BLOCK = 32768
_HEADER = struct.Struct("<4sHB")
_CHUNK = struct.Struct("<IHB")
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


class BrokenFile(ValueError):
    """The file is no transaction log, or is damaged."""


def records(path: str) -> Iterator[Any]:
    """Yield the protobuf records of a .wandb file, up to one that is cut short.

    The last record of a run that was killed may be so.

    Args:
        path: The file.

    Raises:
        BrokenFile: It is no .wandb file, or is damaged before its end.
    """
    from wandb.proto import wandb_internal_pb2 as pb

    for data in _entries(path):
        record = pb.Record()
        record.ParseFromString(data)
        yield record


def history(path: str) -> List[Dict[str, str]]:
    """Return the rows that were logged: in each, values in JSON by their keys."""
    return [
        {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
        for record in records(path)
        if record.WhichOneof("record_type") == "history"
    ]


def exit_code(path: str) -> Optional[int]:
    """Return the run's exit code, or None if it has not ended."""
    codes: List[int] = [
        r.exit.exit_code for r in records(path) if r.WhichOneof("record_type") == "exit"
    ]
    return codes[-1] if codes else None


def find(folder: str) -> List[str]:
    """Return the paths of the .wandb files of runs that were started in a folder."""
    return sorted(glob.glob(os.path.join(folder, "wandb", "*run-*", "*.wandb")))


def _entries(path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        content = file.read()
    if len(content) < _HEADER.size or content[:4] != b":W&B":
        raise BrokenFile(f"{path} is no .wandb file")
    at, parts = _HEADER.size, b""
    while at < len(content):
        left = _BLOCK - at % _BLOCK
        if left < _CHUNK.size:
            at += left  # the rest of a block that has no room for a header is zeros
            continue
        if at + _CHUNK.size > len(content):
            return  # cut short
        checksum, length, kind = _CHUNK.unpack_from(content, at)
        data = content[at + _CHUNK.size : at + _CHUNK.size + length]
        if len(data) < length:
            return  # cut short
        if zlib.crc32(data, zlib.crc32(bytes([kind]))) != checksum:
            raise BrokenFile(f"{path} is damaged at byte {at}")
        at += _CHUNK.size + length
        if kind in (_FULL, _FIRST):
            parts = b""
        parts += data
        if kind in (_FULL, _LAST):
            yield parts
