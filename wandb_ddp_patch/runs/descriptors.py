"""Whether a process may open what a connection needs.

Where it may not, a thread of wandb's own dies, and who waits for it waits for ever.
"""

from __future__ import annotations

import errno
import os

from ..errors import RunUnreachableError

# A connection of wandb's takes three; imports on the way, and the owner's file, the rest.
NEEDED = 6


def require_free_descriptors() -> None:
    """See to it that some files can be opened.

    Raises:
        Unreachable: The limit of this process, or of the system, is reached.
    """
    opened = []
    try:
        for _ in range(NEEDED):
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise RunUnreachableError(
                f"it has too many files open: {NEEDED} more are needed (raise the limit, see"
                " 'ulimit -n', or close some)"
            ) from None
    finally:
        for descriptor in opened:
            os.close(descriptor)
