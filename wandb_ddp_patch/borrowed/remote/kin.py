"""What processes of one tree know of a run without being told: so payloads hold no token.

multiprocessing gives one key to all of them.
https://docs.python.org/3/library/multiprocessing.html#authentication-keys
"""

from __future__ import annotations

from multiprocessing import process
from typing import Any, Optional

from .frames import mac

# That of the parent, in a fork. billiard puts a process with another one in its place there.
_inherited: Optional[bytes] = None


def name(key: str) -> bytes:
    """Give what identifies a run for workers of its owner's tree, 16 bytes."""
    return mac(b"wandb_ddp_patch run", bytes.fromhex(key))[:16]


def token(key: str) -> bytes:
    """Give the token of a run for them, 32 bytes."""
    current: Any = process.current_process()
    is_pythons = isinstance(current, process.BaseProcess)
    authkey = current.authkey if is_pythons else _inherited or current.authkey
    return mac(authkey, b"wandb_ddp_patch token" + bytes.fromhex(key))


def after_fork_in_child() -> None:
    """Keep the key that the parent had, before anything else is run in this process."""
    global _inherited
    _inherited = _inherited or bytes(process.current_process().authkey)
