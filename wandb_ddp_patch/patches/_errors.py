"""The error for a name that is neither an attribute nor a key."""

from __future__ import annotations


class MissingNameError(AttributeError, KeyError):
    """Both errors at once, for classes of wandb's that raise KeyError for it.

    Python's protocols (``hasattr``, ``copy``, ``pickle``) ask for an
    AttributeError; code written against wandb catches the KeyError.
    """

    def __str__(self) -> str:
        return f"no attribute or key {self.args[0]!r}"
