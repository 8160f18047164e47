from __future__ import annotations

import sys


def _allow_in_checkpoints() -> None:
    """Let `torch.load` read a checkpoint that holds a config.

    By default, it loads objects of registered classes only. Does nothing until
    torch is imported, and before torch 2.4, which has no such register.
    """
    torch = sys.modules.get("torch")
    serialization: object = getattr(torch, "serialization", None)
    add = getattr(serialization, "add_safe_globals", None)
    if callable(add):
        _ = add([Config])


class Config:
    def __init__(self):
        object.__setattr__(self, "_items", dict())
        object.__setattr__(self, "_locked", dict())
        object.__setattr__(self, "_users", dict())
        object.__setattr__(self, "_users_inv", dict())
        object.__setattr__(self, "_users_cnt", 0)
        object.__setattr__(self, "_callback", None)
        object.__setattr__(self, "_settings", None)
        object.__setattr__(self, "_artifact_callback", None)

        # torch may have been imported after wandb.
        _allow_in_checkpoints()

        self._load_defaults()


_allow_in_checkpoints()
