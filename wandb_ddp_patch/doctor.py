"""``doctor``: what is installed and patched here, and whether it works."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import site
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List, Optional

import wandb_ddp_patch

from . import probes
from .errors import Failure

# A probe takes a second or two; one that wandb alone hangs in would take for ever.
_PROBE_SECONDS = 15

_COLOURS = {"passes": "32", "applied": "32", "FAILS": "31", "skipped": "33", "fails": "33"}


def main(as_json: bool) -> int:
    """Examine this environment and print what was found.

    Args:
        as_json: Whether to print JSON instead of tables.

    Returns:
        0 if no probe fails with the shim, else 1.

    Raises:
        Failure: There is no wandb here that can be imported.
    """
    facts = environment()
    if not as_json:
        print(_environment_text(facts), flush=True)
    if facts["wandb_error"]:
        if as_json:
            print(json.dumps({**facts, "ok": False}, indent=2))
        raise Failure(facts["wandb_error"])
    facts["probes"] = _probe()
    passed = {row["with"]["passed"] for row in facts["probes"]}
    facts["ok"] = True in passed and False not in passed
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        print(_probes_text(facts["probes"]))
    return 0 if facts["ok"] else 1


def environment() -> Dict[str, Any]:
    """Say what is installed and patched here; imports wandb and torch to do so."""
    error = None
    try:
        importlib.import_module("wandb")
    except ModuleNotFoundError as problem:
        error = str(problem) if problem.name != "wandb" else "wandb is not installed here"
    except KeyboardInterrupt:
        raise
    except BaseException as problem:  # a broken one may do anything
        error = f"wandb can't be imported: {type(problem).__name__}: {problem}"
    if _version("torch"):
        try:
            importlib.import_module("torch")
        except Exception as problem:
            print(f"torch can't be imported: {problem}", file=sys.stderr)
    return {
        "wandb_ddp_patch": wandb_ddp_patch.__version__,
        "enabled": os.environ.get("WANDB_DDP_PATCH") != "0",
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "wandb": _version("wandb"),
        "wandb_error": error,
        "torch": _version("torch"),
        "startup_files": _startup_files(),
        "imported_by": _imported_by(),
        "grafts": [dataclasses.asdict(graft) for graft in wandb_ddp_patch.status()],
    }


def _version(name: str) -> Optional[str]:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _startup_files() -> List[str]:
    folders = site.getsitepackages()
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    names = ("wandb_ddp_patch.pth", "wandb_ddp_patch.start", "wandb_ddp_patch_startup.py")
    paths = [os.path.join(folder, name) for folder in folders for name in names]
    return [path for path in paths if os.path.exists(path)]


def _imported_by() -> str:
    name, path = wandb_ddp_patch._imported_by
    command = "wandb-ddp-patch"  # on Windows, a folder in effect: that file's name and .exe
    places = os.path.basename(path), os.path.basename(os.path.dirname(path))
    by_command = name == "runpy" or any(place.startswith(command) for place in places)
    startup = sys.modules.get("wandb_ddp_patch_startup")
    if name == "wandb_ddp_patch_startup" or (by_command and hasattr(startup, "install")):
        return "start-up file"
    return "nobody" if by_command else f"script {path}"


def _probe() -> List[Dict[str, Any]]:
    total = 2 * len(probes.PROBES)
    lock = threading.Lock()
    count = 0

    def progress(side: str, verdict: probes.Verdict) -> None:
        nonlocal count
        with lock:
            count += 1
            _show(f"{count} of {total}: {verdict.name}, {side} the shim: {_word(verdict)}")

    def one_side(side: str) -> Dict[str, probes.Verdict]:
        return probes.run_all(
            probes.PROBES,
            shim=side == "with",
            timeout=_PROBE_SECONDS if side == "without" else 4 * _PROBE_SECONDS,
            jobs=2,
            done=lambda verdict: progress(side, verdict),
        )

    with ThreadPoolExecutor() as pool:
        try:
            without, with_ = pool.map(one_side, ("without", "with"))
        except BaseException:
            probes.stop()
            raise
    _show("")
    return [
        {
            "name": name,
            "what": probe.what,
            "without": {"passed": without[name].passed, "reason": without[name].reason},
            "with": {"passed": with_[name].passed, "reason": with_[name].reason},
        }
        for name, probe in probes.PROBES.items()
    ]


def _word(verdict: probes.Verdict) -> str:
    return {True: "passes", False: "fails", None: "can't run here"}[verdict.passed]


# --- what people see --------------------------------------------------------


def _show(line: str) -> None:
    """Show how far it is: in one line of a terminal, elsewhere line by line."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write("\r" + line[:width].ljust(width) + ("" if line else "\r"))
    elif line:
        sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _coloured(word: str) -> str:
    # https://no-color.org
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    if word.strip() not in _COLOURS or plain or not sys.stdout.isatty():
        return word
    return f"\033[{_COLOURS[word.strip()]}m{word}\033[0m"


def _environment_text(facts: Dict[str, Any]) -> str:
    shim = facts["wandb_ddp_patch"] + ("" if facts["enabled"] else ", off: WANDB_DDP_PATCH=0")
    rows = [
        ("wandb_ddp_patch", shim),
        ("Python", f"{facts['python']}, {facts['executable']}"),
        ("platform", facts["platform"]),
        ("wandb", facts["wandb"] or "not installed"),
        ("torch", facts["torch"] or "not installed"),
        ("start-up files", ", ".join(facts["startup_files"]) or "not installed"),
        ("imported by", facts["imported_by"]),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:{width}}  {value}" for name, value in rows]
    if facts["imported_by"] == "nobody":
        lines.append(f"{'':{width}}  (only scripts that import wandb_ddp_patch are patched)")
    lines.append("")
    targets = [graft["target"] for graft in facts["grafts"]]
    width = max(map(len, targets))
    for graft, target in zip(facts["grafts"], targets):
        state = _coloured(f"{graft['state']:18}")
        lines.append(f"{target:{width}}  {state}  {graft['since']}")
        if graft["state"] == "skipped":
            lines.extend(textwrap.wrap(graft["why"], 96, initial_indent="  "))
    return "\n".join([*lines, ""])


def _probes_text(rows: List[Dict[str, Any]]) -> str:
    width = max(len(row["name"]) for row in rows)
    lines = [f"{'probe':{width}}  without  with"]
    for row in rows:
        without, with_ = row["without"], row["with"]
        words = (
            {True: "passes", False: "fails", None: "-"}[without["passed"]],
            {True: "passes", False: "FAILS", None: "-"}[with_["passed"]],
        )
        # What is amiss with the shim; else what it is good for.
        reason = with_["reason"] if with_["passed"] is not True else without["reason"]
        reason = "" if with_["passed"] and without["passed"] else reason
        cells = f"{_coloured(f'{words[0]:7}')}  {_coloured(f'{words[1]:6}')}"
        lines.append(f"{row['name']:{width}}  {cells}  {textwrap.shorten(reason, 90)}".rstrip())
    passed = [sum(row[side]["passed"] is True for row in rows) for side in ("without", "with")]
    lines.append("")
    lines.append(f"Of {len(rows)} probes, {passed[0]} pass without the shim, {passed[1]} with it.")
    return "\n".join(lines)
