"""What processes of one tree know of a run without being told: so payloads hold no token.

multiprocessing gives one key to all of them.
https://docs.python.org/3/library/multiprocessing.html#authentication-keys
"""

from __future__ import annotations

from multiprocessing import process

from .frames import mac


def name(key: str) -> bytes:
    """Give what identifies a run for workers of its owner's tree, 16 bytes."""
    return mac(b"wandb_ddp_patch run", bytes.fromhex(key))[:16]


def token(key: str) -> bytes:
    """Give the token of a run for them, 32 bytes."""
    return mac(process.current_process().authkey, b"wandb_ddp_patch token" + bytes.fromhex(key))
