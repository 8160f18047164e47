"""Runs every probe on every wandb, without and with the shim, and collects what they say."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import wandb_ddp_patch

from .. import probes
from ..errors import Failure
from . import environments, export, report, specs, trees

SIDES = ("without", "with")
EXPORT = "export"

# Of what the classes are by themselves: these must pass with the exported diff.
ALONE = ("config-", "summary-names", "summary-copy", "preinit", "run-same-process")


def run(
    wanted: Sequence[str],
    pythons: Sequence[str],
    *,
    only: Sequence[str] = (),
    jobs: Optional[int] = None,
    timeout: float = 60,
    keep: bool = False,
    with_export: bool = False,
    folder: Optional[Path] = None,
    readme: Optional[Path] = None,
) -> int:
    """Run the testbed and print, and write, its report.

    Args:
        wanted: SPECs, see :func:`specs.targets`.
        pythons: Versions of interpreters; all targets run on each.
        only: Names of probes; by default all.
        jobs: How many probe processes run at once; by default two for each core, for
            they wait a lot.
        timeout: Seconds after which a probe counts as hanging.
        keep: Whether environments of trees and files stay in the cache. Those of
            releases always do.
        with_export: Whether source trees are also probed with the exported diff
            applied and the shim off.
        folder: Where the report is written, as Markdown, JSON and HTML.
        readme: A Markdown file that gets the report's first table.

    Returns:
        0 if every probe passes with the shim, and those that can with the diff; else 1.

    Raises:
        Failure: A SPEC or a name is none, or nothing could be run.
    """
    unknown = [name for name in only if name not in probes.PROBES]
    if unknown:
        raise Failure(f"no such probe: {', '.join(unknown)} (there are {', '.join(probes.PROBES)})")
    names = list(dict.fromkeys(only or probes.PROBES))
    if readme:
        _marks(readme)
    entries = _entries(wanted, pythons)
    if with_export and not all(target.tree for target, _ in entries):
        raise Failure("--with-export is for source trees and sdists: a release can't be changed")
    sides = [*SIDES, EXPORT] if with_export else list(SIDES)
    times = collections.Counter(target.label for target, _ in entries)
    labels = [f"{t.label}@{python}" if times[t.label] > 1 else t.label for t, python in entries]
    labels = [  # two trees may have one name
        label if labels.count(label) == 1 else f"{label} ({labels[:number].count(label) + 1})"
        for number, label in enumerate(labels)
    ]
    data = _empty_report(names, sides, entries, labels)
    interpreters: List[Dict[str, str]] = [{} for _ in entries]
    jobs = jobs or 2 * (os.cpu_count() or 1)
    lock = threading.Lock()
    try:
        with report.Live(labels, sides, names) as live, ThreadPoolExecutor(jobs) as pool:

            def prepare(number: int) -> None:
                entry = data["environments"][number]
                try:
                    _prepare(*entries[number], entry, with_export, interpreters[number])
                except (Failure, OSError) as error:
                    entry["error"] = " ".join(str(error).split())
                    live.error(entry["label"], entry["error"])
                if folder:
                    with lock:
                        report.write(data, folder)

            def one(number: int, side: str) -> None:
                python = interpreters[number].get(side)
                if python and not data["environments"][number]["error"]:
                    _probe(data["environments"][number], side, python, names, timeout, live)
                if folder:
                    with lock:
                        report.write(data, folder)

            futures: List[Any] = []
            try:
                # All environments first: a release that can't be had is known at once.
                futures += [pool.submit(prepare, number) for number in range(len(entries))]
                for future in futures:
                    future.result()
                todo = [(number, side) for number in range(len(entries)) for side in sides]
                futures += [pool.submit(one, *item) for item in todo]
                for future in futures:
                    future.result()
            except BaseException:
                for future in futures:
                    future.cancel()
                probes.stop()
                raise
    finally:
        for (target, _), made in zip(entries, interpreters):
            if not keep and (target.tree or os.path.exists(target.requirement)):
                for python in made.values():
                    environments.remove(python)
    errors = {entry["label"]: entry["error"] for entry in data["environments"] if entry["error"]}
    if len(errors) == len(entries):
        raise Failure("; ".join(dict.fromkeys(errors.values())))
    if live.terminal:  # the matrix is there already
        print("\n".join([n for e in data["environments"] for n in e["notes"]]))
        print("\n".join(report.summary(data)))
    else:
        print(report.text(data, sys.stdout.encoding or "utf-8"))
    for label, error in errors.items():
        print(f"wandb-ddp-patch: {label}: {error}", file=sys.stderr)
    if folder:
        for path in report.write(data, folder):
            print(f"written: {path}")
    if readme:
        _fill(readme, data)
    return _judge(data)


def _entries(wanted: Sequence[str], pythons: Sequence[str]) -> List[Tuple[specs.Target, str]]:
    """Say what is to be run, on which Python: ``0.12@3.9`` names its own."""
    entries = []
    for spec in wanted:
        name, at, python = spec.rpartition("@")
        if not at or not re.fullmatch(r"3\.\d+", python):
            name, own = spec, list(pythons)
        else:
            own = [python]
        targets = specs.targets(name)
        entries += [(target, python) for python in own for target in targets]
    return list(dict.fromkeys(entries))


def _empty_report(
    names: List[str],
    sides: List[str],
    entries: List[Tuple[specs.Target, str]],
    labels: List[str],
) -> Dict[str, Any]:
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "schema": 1,
        "created": now.isoformat(timespec="seconds"),
        "wandb_ddp_patch": wandb_ddp_patch.__version__,
        "system": platform.system(),
        "cores": os.cpu_count(),
        "sides": sides,
        "probes": [
            {
                "name": name,
                "what": probes.PROBES[name].what,
                "issues": list(probes.PROBES[name].issues),
            }
            for name in names
        ],
        "environments": [
            {
                "label": label,
                "release": target.release,
                "python": python,
                "notes": list(target.notes),
                "error": None,
                "verdicts": {},
            }
            for (target, python), label in zip(entries, labels)
        ],
    }


def _prepare(
    target: specs.Target,
    python: str,
    entry: Dict[str, Any],
    with_export: bool,
    interpreters: Dict[str, str],
) -> None:
    """Make an environment for each side, whose wandb can be imported."""
    made = target.make(python)
    interpreters.update(dict.fromkeys(SIDES, made))
    _importable(made, f"wandb {target.label}", python)
    if with_export:
        interpreters[EXPORT] = _exported(target, python, entry)


def _importable(interpreter: str, what: str, python: str) -> None:
    env = {key: val for key, val in os.environ.items() if key != "PYTHONPATH"}
    try:
        done = subprocess.run(
            [interpreter, "-W", "ignore", "-c", "import wandb; wandb.Config"],
            env={**env, "WANDB_DDP_PATCH": "0"},
            cwd=Path(interpreter).parent,  # where there is no other wandb
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=120,
        )
    except subprocess.TimeoutExpired:
        raise Failure(f"importing {what} hangs on Python {python}") from None
    if done.returncode:
        raise Failure(f"Python {python} can't run {what}: {probes.last_line(done.stderr)}")


def _exported(target: specs.Target, python: str, entry: Dict[str, Any]) -> str:
    assert target.tree
    folder = Path(tempfile.mkdtemp(prefix="wandb_ddp_patch-export-"))
    try:
        if export.applied(target.tree, folder / "tree") is None:
            entry["notes"].append("the exported diff is empty: the tree has it all")
        label = f"{target.label}-exported"
        return environments.overlaid(label, folder / "tree", target.release, python)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _probe(
    entry: Dict[str, Any], side: str, python: str, names: List[str], timeout: float, live: Any
) -> None:
    verdicts = entry["verdicts"].setdefault(side, {})

    def done(verdict: probes.Verdict) -> None:
        kept = {key: val for key, val in vars(verdict).items() if key != "name"}
        verdicts[verdict.name] = kept
        live.verdict(entry["label"], side, verdict.name, verdict.passed, verdict.reason)

    found = probes.run_all(names, shim=side == "with", python=python, timeout=timeout, done=done)
    again = [v.name for v in found.values() if v.reason.startswith("hangs") and side != "without"]
    # Old services fail to start now and then where several start at once; what
    # hangs by itself hangs again.
    for name in again:
        verdict = probes.run(name, shim=side == "with", python=python, timeout=timeout)
        if verdict.passed:
            verdict = dataclasses.replace(verdict, reason="as it should be, but it hung at first")
        done(verdict)


def _judge(data: Dict[str, Any]) -> int:
    """Say what the report comes to, as an exit status."""
    bad = [entry["label"] for entry in data["environments"] if entry["error"]]
    for entry in data["environments"]:
        for side, verdicts in entry["verdicts"].items():
            failed = [name for name, verdict in verdicts.items() if verdict["passed"] is False]
            if side == EXPORT:
                fine = [n for n, v in entry["verdicts"].get("without", {}).items() if v["passed"]]
                must = [name for name in failed if name.startswith(ALONE) or name in fine]
                others = [name for name in failed if name not in must]
                if others:
                    print(
                        f"{entry['label']}: with the diff alone these fail, as they must:"
                        f" {', '.join(others)}; {export.NEEDS_WORKER_CODE}"
                    )
                failed = must
            if side != "without" and failed:
                bad.append(entry["label"])
    return 1 if bad else 0


def _fill(readme: Path, data: Dict[str, Any]) -> None:
    """Put the report's first table between two marks in a Markdown file."""
    before, after = _marks(readme)
    table = report.markdown(data, details=False).strip()
    readme.write_text(f"{before}{table}\n{after}", "utf-8")


def _marks(readme: Path) -> Tuple[str, str]:
    mark = "<!-- matrix -->\n"
    parts = trees.read(readme).split(mark)
    if len(parts) != 3:
        raise Failure(f"{readme}: no two lines <!-- matrix -->")
    return parts[0] + mark, mark + parts[2]
