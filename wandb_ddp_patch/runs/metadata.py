"""What a run tells of itself without its service, beside its config.

Read when wandb is imported, which must stay quick.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .payload_format import Metadata

# The entry of a run's __dict__ that is ours: its state. Here, so that importing wandb need
# not read state.py, which only runs need.
STATE_ENTRY = "_ddp_state"

# No more: all else in a run comes from its settings, which do not leave the process.
FIELDS = ("id", "name", "project", "entity", "group", "url", "offline", "disabled")


def collect_metadata(run: Any) -> Metadata:
    """Return what a run knows of itself, the names in ``FIELDS``, without attaching it."""
    found = {name: get_field(run, name) for name in FIELDS}
    found["url"] = found["url"] and strip_credentials(found["url"])
    return found  # type: ignore[return-value]


def get_field(run: Any, name: str) -> Any:
    """Return one thing that a run knows of itself, or None where it does not."""
    try:
        if name == "url" and get_field(run, "offline"):
            return None  # wandb would warn that there is none
        member = getattr(type(run), name, None)
        if isinstance(member, property):
            # Without wandb's decorators, and ours: in a fork they would attach.
            value = inspect.unwrap(member.fget)(run)  # type: ignore[arg-type]
        else:
            value = getattr(run, name)
    except Exception:
        return None
    # RunDisabled answers any name with another RunDisabled.
    return value if type(value) in (str, int, float, bool) else None


def strip_credentials(url: str) -> str:
    """Return a URL without what may be secret: an anonymous user's holds the API key."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
