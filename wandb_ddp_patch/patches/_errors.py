"""The error for a name that is neither an attribute nor a key."""

from __future__ import annotations


class MissingNameError(AttributeError, KeyError):
    """Both errors at once, for classes whose own ``__getattr__`` raises KeyError.

    Python's protocols (``hasattr``, ``copy``, ``pickle``) need an AttributeError;
    code written against wandb catches the KeyError.
    """

    def __str__(self) -> str:
        return f"no attribute or key {self.args[0]!r}"
