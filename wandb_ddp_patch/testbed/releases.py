"""The release lines of wandb that are known here, and what each needs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Dict, List

# Each release line, and what it needs besides what it says itself: "pins" for its
# dependencies, "aliases" for names that Python 3.10 took out of the standard library.
RELEASES: Dict[str, Dict[str, Any]] = json.loads(
    Path(__file__).with_name("releases.json").read_text("utf-8")
)


def needs_of(release: str) -> Dict[str, Any]:
    """Say what a release needs on newer Pythons: as the known one before it does."""
    before = [known for known in RELEASES if numbers(known) <= numbers(release)]
    return RELEASES[max(before or [min(RELEASES, key=numbers)], key=numbers)]


def numbers(version: str) -> List[int]:
    """Give the numbers of a version, for comparing."""
    return [int(number) for number in re.findall(r"\d+", version)[:3]]
