"""Runs every probe on every wandb, without and with the shim, and collects what they say."""

from __future__ import annotations

import collections
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
from ..cli import Failure
from . import environments, export, report, specs

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
    names = list(only or probes.PROBES)
    entries = _entries(wanted, pythons)
    if with_export and not all(target.tree for target, _ in entries):
        raise Failure("--with-export is for source trees and sdists: a release can't be changed")
    sides = [*SIDES, EXPORT] if with_export else list(SIDES)
    times = collections.Counter(target.label for target, _ in entries)
    labels = [f"{t.label}@{python}" if times[t.label] > 1 else t.label for t, python in entries]
    data = _empty_report(names, sides, entries, labels)
    interpreters: List[Dict[str, str]] = [{} for _ in entries]
    jobs = jobs or 2 * (os.cpu_count() or 1)
    lock = threading.Lock()
    try:
        with report.Live(labels, sides, names) as live, ThreadPoolExecutor(jobs) as pool:

            def prepare(number: int) -> None:
                entry = data["environments"][number]
                try:
                    interpreters[number] = _prepare(*entries[number], entry, with_export)
                except (Failure, OSError) as error:
                    entry["error"] = " ".join(str(error).split())
                    live.error(entry["label"], entry["error"])
                if folder:
                    with lock:
                        report.write(data, folder)

            def one(number: int, side: str) -> None:
                python = interpreters[number].get(side)
                if python:
                    _probe(data["environments"][number], side, python, names, timeout, live)
                if folder:
                    with lock:
                        report.write(data, folder)

            # All environments first: a release that can't be had is known at once.
            for future in [pool.submit(prepare, number) for number in range(len(entries))]:
                future.result()
            todo = [(number, side) for number in range(len(entries)) for side in sides]
            futures = [pool.submit(one, *item) for item in todo]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                for future in futures:
                    future.cancel()
                raise
    finally:
        for (target, _), made in zip(entries, interpreters):
            if not keep and (target.tree or os.path.exists(target.requirement)):
                for python in made.values():
                    environments.remove(python)
    text = report.text(data, sys.stdout.encoding or "utf-8")
    print(text.rstrip().splitlines()[-1] if live.terminal else text)
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
    target: specs.Target, python: str, entry: Dict[str, Any], with_export: bool
) -> Dict[str, str]:
    """Make an environment for each side, whose wandb can be imported."""
    made = target.make(python)
    _importable(made, f"wandb {target.label}", python)
    interpreters = dict.fromkeys(SIDES, made)
    if with_export:
        interpreters[EXPORT] = _exported(target, python, entry)
    return interpreters


def _importable(interpreter: str, what: str, python: str) -> None:
    done = subprocess.run(
        [interpreter, "-W", "ignore", "-c", "import wandb; wandb.Config"],
        env={**os.environ, "WANDB_DDP_PATCH": "0"},
        cwd=tempfile.gettempdir(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
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
        done(probes.run(name, shim=side == "with", python=python, timeout=timeout))


def _judge(data: Dict[str, Any]) -> int:
    """Say what the report comes to, as an exit status."""
    bad = [entry["label"] for entry in data["environments"] if entry["error"]]
    for entry in data["environments"]:
        for side, verdicts in entry["verdicts"].items():
            failed = [name for name, verdict in verdicts.items() if verdict["passed"] is False]
            if side == EXPORT:
                others = [name for name in failed if not name.startswith(ALONE)]
                if others:
                    print(
                        f"{entry['label']}: with the diff alone these fail, as they must:"
                        f" {', '.join(others)}; {export.NEEDS_WORKER_CODE}"
                    )
                failed = [name for name in failed if name.startswith(ALONE)]
            if side != "without" and failed:
                bad.append(entry["label"])
    return 1 if bad else 0


def _fill(readme: Path, data: Dict[str, Any]) -> None:
    """Put the report's first table between two marks in a Markdown file."""
    text = readme.read_text("utf-8")
    marks = re.compile(r"(<!-- matrix -->\n).*?(<!-- matrix -->)", re.S)
    if not marks.search(text):
        raise Failure(f"{readme}: no two lines <!-- matrix -->")
    table = report.markdown(data, details=False).strip()
    new = marks.sub(lambda found: f"{found.group(1)}{table}\n{found.group(2)}", text)
    readme.write_text(new, "utf-8")
