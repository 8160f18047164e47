"""A lock on a file, which the system takes away when the process that holds it ends.

However it ends. A worker that only reads the file can tell whether it is locked.
"""

from __future__ import annotations

import os
import sys

if sys.platform == "win32":
    import msvcrt

    # Far behind all that is ever in the file: what is locked, nobody else can read there.
    _PLACE = 1 << 30

    def lock(descriptor: int) -> None:
        """Lock a file.

        Raises:
            OSError: It is locked, or can't be.
        """
        _at_the_place(descriptor, msvcrt.LK_NBLCK)

    def is_locked(descriptor: int) -> bool:
        """Return True if another process has locked a file."""
        try:
            _at_the_place(descriptor, msvcrt.LK_NBLCK)
        except OSError:
            return True  # or another worker is asking just now
        _at_the_place(descriptor, msvcrt.LK_UNLCK)
        return False

    def _at_the_place(descriptor: int, what: int) -> None:
        os.lseek(descriptor, _PLACE, os.SEEK_SET)
        msvcrt.locking(descriptor, what, 1)

else:
    import fcntl

    def lock(descriptor: int) -> None:
        """Lock a file.

        Raises:
            OSError: It is locked, or can't be.
        """
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def is_locked(descriptor: int) -> bool:
        """Return True if another process has locked a file."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        return False
