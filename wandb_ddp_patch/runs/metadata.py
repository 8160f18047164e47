"""What a run tells of itself without its service, beside its config."""

from __future__ import annotations

import inspect
from typing import Any, Dict

# The entry of a run's __dict__ that is ours: its link. Here, so that importing wandb need
# not read link.py, which only runs need.
ENTRY = "_ddp_link"

# No more: all else in a run comes from its settings, which do not leave the process.
FIELDS = ("id", "name", "project", "entity", "group", "url", "offline", "disabled")


def collect_metadata(run: Any) -> Dict[str, Any]:
    """Tell what a run knows of itself, without attaching it: see ``KNOWN``."""
    known = {name: get_field(run, name) for name in FIELDS}
    known["url"] = known["url"] and strip_credentials(known["url"])
    return known


def get_field(run: Any, name: str) -> Any:
    """Tell one thing of a run, or None where it does not know."""
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
    """Take from a URL what may be secret: an anonymous user's holds the API key."""
    from urllib.parse import urlsplit  # late: importing wandb must stay quick

    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
