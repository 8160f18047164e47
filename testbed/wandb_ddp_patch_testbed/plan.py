"""What is to be run: which probes, on which wandbs and Pythons, from which sides."""

from __future__ import annotations

import collections
import datetime
import os
import platform
import re
from dataclasses import dataclass
from typing import Any, Dict, List, Sequence, Tuple

import wandb_ddp_patch
from wandb_ddp_patch import probes
from wandb_ddp_patch.errors import CommandError

from . import source_trees, specs

SIDES = ("without", "with")
EXPORT = "export"

# A wandb, and the version of the Python that it is to run on.
Entry = Tuple[specs.Target, str]


@dataclass(frozen=True)
class Plan:
    """What is to be run.

    Attributes:
        names: The probes.
        sides: From which sides they are run.
        entries: The wandbs and Pythons.
        labels: What the report calls each entry, without duplicates.
    """

    names: List[str]
    sides: List[str]
    entries: List[Entry]
    labels: List[str]

    def report(self) -> Dict[str, Any]:
        """Return a new report, with nothing measured."""
        now = datetime.datetime.now(datetime.timezone.utc)
        return {
            "schema": 1,
            "created": now.isoformat(timespec="seconds"),
            "wandb_ddp_patch": wandb_ddp_patch.__version__,
            "system": platform.system(),
            "cores": os.cpu_count(),
            "sides": self.sides,
            "probes": [
                {
                    "name": name,
                    "what": probes.PROBES[name].what,
                    "issues": list(probes.PROBES[name].issues),
                    "fails": probes.PROBES[name].fails,
                }
                for name in self.names
            ],
            "environments": [
                {
                    "label": label,
                    "release": target.release,
                    "python": python,
                    "spec": target.spec,
                    **_commit(target),
                    "notes": list(target.notes),
                    "error": None,
                    "verdicts": {},
                }
                for (target, python), label in zip(self.entries, self.labels)
            ],
        }


def _commit(target: specs.Target) -> Dict[str, Any]:
    commit, changed = source_trees.commit_of(target.tree) if target.tree else (None, False)
    return {"commit": commit, "changed": changed}


def probe_names(only: Sequence[str]) -> List[str]:
    """Return the names of the probes in ``only``, without duplicates; if it is empty, of all.

    Raises:
        CommandError: There is no such probe.
    """
    unknown = [name for name in only if name not in probes.PROBES]
    if unknown:
        raise CommandError(
            f"no such probe: {', '.join(unknown)} (there are {', '.join(probes.PROBES)})"
        )
    return list(dict.fromkeys(only or probes.PROBES))


def make(
    names: List[str], wanted: Sequence[str], pythons: Sequence[str], with_export: bool
) -> Plan:
    """Return the plan of a run.

    Args:
        names: The probes.
        wanted: SPECs, see :func:`specs.targets`; ``0.12@3.9`` names its own Python.
        pythons: Versions of interpreters, for SPECs that name none.
        with_export: Whether the exported diff is a side as well.

    Raises:
        CommandError: A SPEC is invalid, or the diff can't be applied to it.
    """
    entries = _entries(wanted, pythons)
    if with_export and not all(target.tree for target, _ in entries):
        raise CommandError(
            "--with-export is for source trees and sdists: a release can't be changed"
        )
    sides = [*SIDES, EXPORT] if with_export else list(SIDES)
    return Plan(names, sides, entries, _labels(entries))


def _entries(wanted: Sequence[str], pythons: Sequence[str]) -> List[Entry]:
    entries = []
    for spec in wanted:
        name, at, python = spec.rpartition("@")
        own = [python]
        if not at or not re.fullmatch(r"3\.\d+", python):
            name, own = spec, list(pythons)
        targets = specs.targets(name)
        entries += [(target, python) for python in own for target in targets]
    return list(dict.fromkeys(entries))


def _labels(entries: List[Entry]) -> List[str]:
    times = collections.Counter(target.label for target, _ in entries)
    labels = [f"{t.label}@{python}" if times[t.label] > 1 else t.label for t, python in entries]
    return [  # two trees may have one name
        label if labels.count(label) == 1 else f"{label} ({labels[:number].count(label) + 1})"
        for number, label in enumerate(labels)
    ]
