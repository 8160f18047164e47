"""The release lines of wandb that are known here, and what each needs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Dict, List

from wandb_ddp_patch.errors import CommandError

# Each release line, and what it needs besides what it says itself: "pins" for its
# dependencies, "aliases" for names that Python 3.10 took out of the standard library.
_FILE = Path(__file__).with_name("releases.json")
RELEASES: Dict[str, Dict[str, Any]] = json.loads(_FILE.read_text("utf-8"))


def needs_of(release: str) -> Dict[str, Any]:
    """Return what a release needs on newer Pythons: that of the known release before it."""
    before = [known for known in RELEASES if numbers(known) <= numbers(release)]
    return RELEASES[max(before or [min(RELEASES, key=numbers)], key=numbers)]


def add_line(release: str, file: Path = _FILE) -> bool:
    """Add a release of a new line, which gets the pins of the line before it.

    Returns:
        True if it was added, False if its line was known already.

    Raises:
        CommandError: The file can't be written, where this package is installed for all.
    """
    known: Dict[str, Dict[str, Any]] = json.loads(file.read_text("utf-8"))
    if any(numbers(other)[:2] == numbers(release)[:2] for other in known):
        return False
    known[release] = needs_of(release)
    ordered = {name: known[name] for name in sorted(known, key=numbers)}
    try:
        file.write_text(json.dumps(ordered, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise CommandError(f"{file} can't be written: {error.strerror}") from None
    return True


def numbers(version: str) -> List[int]:
    """Return the numbers of a version, for comparing."""
    return [int(number) for number in re.findall(r"\d+", version)[:3]]
