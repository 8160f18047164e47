"""What to say where a package of the ``testbed`` extra is not installed."""

from __future__ import annotations

INSTALL = "pip install '.[testbed]' in this package's source folder"


def missing(what: str, package: str) -> ImportError:
    """Say which package something needs, and how to get it."""
    return ImportError(f"{what} needs {package}: {INSTALL}", name=package)
