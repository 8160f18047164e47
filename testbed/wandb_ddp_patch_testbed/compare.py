"""The day after a release: what a new wandb changes for us, in three lines."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from wandb_ddp_patch import probes
from wandb_ddp_patch.errors import CommandError

from . import environments, plan, report
from .measure import Measurement
from .releases import RELEASES, numbers

_STATUS = """
import json, wandb_ddp_patch
import importlib, wandb
for name in ("torch", "yaml"):  # which patches wait for
    try: importlib.import_module(name)
    except ImportError: pass
print(json.dumps({one.target: one.state for one in wandb_ddp_patch.status()}))
"""


def run(
    wanted: Sequence[str],
    pythons: Sequence[str],
    base: str = "",
    *,
    only: Sequence[str] = (),
    jobs: Optional[int] = None,
    timeout: float = 60,
) -> int:
    """Compare a release with a known one, and print what differs.

    Args:
        wanted: One SPEC, of one release.
        pythons: The version of the interpreter; the first is used.
        base: The release to compare with; by default the newest in ``releases.json``.
        only: Names of probes; by default all.
        jobs: How many probe processes run at once.
        timeout: Seconds after which a probe counts as hanging.

    Returns:
        0 if the new release changes nothing for this package, else 1.

    Raises:
        CommandError: A SPEC is not a single release, or a release can't be run.
    """
    base = base or max(RELEASES, key=numbers)
    todo = plan.make(plan.probe_names(only), [base, *wanted], pythons[:1], False)
    releases = [target.release for target, _ in todo.entries]
    if len(set(releases)) == 1:
        print(f"{releases[0]} is what it is compared with: there is nothing to compare")
        return 0
    if len(releases) != 2:
        raise CommandError("--since compares one release with another: name one SPEC")
    old, new = _measured(todo, timeout, jobs)
    states = [_states(entry["release"], entry["python"]) for entry in (old, new)]
    lines = changes(old, new, *states)
    print("\n".join(lines))
    return 0 if all(line.endswith(": none") for line in lines) else 1


def _measured(todo: plan.Plan, timeout: float, jobs: Optional[int]) -> List[Dict[str, Any]]:
    live = report.Live(todo.labels, todo.sides, todo.names)
    found: List[Dict[str, Any]] = Measurement(todo, live, timeout, None).run(jobs)["environments"]
    for entry in found:
        if entry["error"]:
            raise CommandError(f"{entry['label']}: {entry['error']}")
    return found


def changes(
    old: Dict[str, Any], new: Dict[str, Any], before: Dict[str, str], now: Dict[str, str]
) -> List[str]:
    """Return three lines that say what differs.

    Args:
        old: The known release's environment in the report.
        new: The new release's.
        before: The state of each patch on the known release.
        now: The same on the new release.
    """
    patches = [
        f"{target} ({state}, was {before[target]})"
        for target, state in now.items()
        if state != before.get(target, state)
    ]
    name = f"{new['release']} since {old['release']}"
    return [
        f"{name}, patches in another state: {', '.join(patches) or 'none'}",
        f"{name}, probes without the patch: {_differing(old, new, 'without')}",
        f"{name}, probes with the patch: {_differing(old, new, 'with')}",
    ]


def _differing(old: Dict[str, Any], new: Dict[str, Any], side: str) -> str:
    words = {True: "passes", False: "fails", None: "can't be run"}
    found = []
    for name, verdict in new["verdicts"].get(side, {}).items():
        was = old["verdicts"].get(side, {}).get(name, verdict)
        if verdict["passed"] != was["passed"]:
            found.append(f"{name} {words[verdict['passed']]}")
    return ", ".join(found) or "none"


def _states(release: str, python: str) -> Dict[str, str]:
    interpreter = environments.environment(release, python)
    done = subprocess.run(
        [interpreter, "-c", _STATUS],
        env=probes.environment(interpreter, patched=True),
        cwd=Path(interpreter).parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise CommandError(f"{release}: {probes.last_line(done.stderr)}")
    states: Dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return states
