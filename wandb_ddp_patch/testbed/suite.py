"""wandb's own unit tests on a tree: as it is, with the shim, and with the exported diff."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import xml.etree.ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ..errors import Failure
from . import export
from .uvtool import run_uv, why

_PACKAGE = Path(__file__).resolve().parents[1]
# All of the unit tests take some minutes.
_LIMIT_SECONDS = 3600

Outcomes = Dict[str, str]


@dataclass(frozen=True)
class Wish:
    """Which tests are to be run.

    Attributes:
        paths: Files or folders in the tree.
        maxfail: After so many failures, a run is ended.
        jobs: How many processes run them.
    """

    paths: Tuple[str, ...] = ("tests/unit_tests",)
    maxfail: int = 100
    jobs: int = 2


def compare(tree: Path, pythons: Mapping[str, str], wish: Wish) -> Dict[str, Any]:
    """Run a tree's tests from three sides, and say what differs.

    Args:
        tree: The source tree.
        pythons: The interpreter of each side: ``without``, ``with`` and ``export``.
        wish: Which tests.

    Returns:
        ``words`` for people; ``worse``: the tests that passed as it is, and fail on another
        side, by side; ``counts`` of the outcomes, by side.
    """
    missing = [path for path in wish.paths if not (tree / path).exists()]
    if missing:
        words = [f"wandb's own tests were not run: there is no {missing[0]} (an sdist has none)"]
        return {"words": words, "worse": {}, "counts": {}}
    folder = Path(tempfile.mkdtemp(prefix="wandb_ddp_patch-tests-"))
    try:
        return _Suite(tree, pythons, wish, folder).compare()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Suite:
    def __init__(self, tree: Path, pythons: Mapping[str, str], wish: Wish, folder: Path) -> None:
        self._pythons, self._wish, self._folder = pythons, wish, folder
        self._words = _install(tree, pythons["without"], folder / "needs")
        found = export.change(tree)
        # Without wandb beside them: they are to import the one of the environment.
        for name in ("plain", "export"):
            for part in ("tests", "pyproject.toml"):
                if (tree / part).is_dir():
                    shutil.copytree(tree / part, folder / name / part, symlinks=True)
                elif (tree / part).is_file():
                    shutil.copyfile(tree / part, folder / name / part)
        self._changed = [file for file in found.files if file.startswith("tests/unit_tests/")]
        for file, text in found.files.items():
            if file.startswith("tests/"):
                (folder / "export" / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / "export" / file).write_text(text, "utf-8")
        # Where the package is alone: what lies beside it may be another wandb.
        shutil.copytree(_PACKAGE, folder / "shim" / "wandb_ddp_patch")

    def compare(self) -> Dict[str, Any]:
        paths = self._wish.paths
        sides = {side: self._run(side, paths) for side in ("without", "with", "export")}
        before, worse = sides["without"], {}
        for side in ("with", "export"):
            worse[side] = self._worse(side, before, sides[side])
        self._say(before, worse, sides)
        counts = {side: _counts(found) for side, found in sides.items()}
        return {"words": self._words, "worse": worse, "counts": counts}

    def _worse(self, side: str, before: Outcomes, now: Outcomes) -> List[str]:
        """Give the tests that pass as it is and not on a side, both a second time."""
        fine = [name for name, how in before.items() if how == "passed"]
        differ = [name for name in fine if _fails(now.get(name))]
        # Gone without a word: their file can't be imported, or their process has died.
        gone = [] if self._is_cut(now) else [name for name in fine if name not in now]
        if differ:
            again = self._run(side, differ, alone=True)
            once = self._run("without", differ, alone=True)
            differ = [n for n in differ if _fails(again.get(n)) and not _fails(once.get(n))]
        return differ + gone

    def _is_cut(self, found: Outcomes) -> bool:
        return sum(map(_fails, found.values())) >= self._wish.maxfail

    def _say(
        self, before: Outcomes, worse: Dict[str, List[str]], sides: Dict[str, Outcomes]
    ) -> None:
        failing = sum(map(_fails, before.values()))
        self._words.append(
            f"Of wandb's own {len(before)} unit tests, {failing} fail on this tree as it is"
            + (", with which the run was ended (--maxfail)" if self._is_cut(before) else "")
        )
        for side, what in (("with", "with the shim"), ("export", "with the change")):
            names = ", ".join(worse[side][:5])
            self._words.append(
                f"{what}, {len(worse[side])} others fail" + (f": {names}" if names else "")
            )
        new = [name for name in sides["export"] if name not in before]
        if new and self._changed:
            plain = self._run("new", self._changed)
            fail = sum(_fails(plain.get(name, "failed")) for name in new)
            well = sum(sides["export"][name] == "passed" for name in new)
            self._words.append(
                f"Of its {len(new)} new tests, {fail} fail without the change; {well} pass with it"
            )

    def _run(self, side: str, names: Sequence[str], alone: bool = False) -> Outcomes:
        """Run tests, one at a time where alone; give the outcome of each, by its node's name."""
        where = self._folder / ("export" if side in ("export", "new") else "plain")
        python = self._pythons["export" if side == "export" else "without"]
        result = self._folder / "result.xml"
        if result.exists():
            result.unlink()
        path = [str(self._folder / "needs")]
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts="]
        command += ["-o", "junit_family=xunit1", f"--junitxml={result}"]
        command += [f"--maxfail={self._wish.maxfail}"]
        if (self._folder / "needs" / "xdist").is_dir() and not alone:
            command += ["-n", str(self._wish.jobs)]
        if side == "with":
            path.append(str(self._folder / "shim"))
            command += ["-p", "wandb_ddp_patch"]
        env = {key: val for key, val in os.environ.items() if not key.startswith("WANDB_")}
        env.update(PYTHONPATH=os.pathsep.join(path), WANDB_DDP_PATCH=str(int(side == "with")))
        try:
            done = subprocess.run(
                [*command, *names],
                cwd=where,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                timeout=_LIMIT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise Failure(f"wandb's own tests did not end within {_LIMIT_SECONDS} s") from None
        if not result.exists():
            raise Failure(f"wandb's own tests can't be run: {_last(done.stdout)}")
        return _outcomes(result)


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "pytest says nothing"


def _install(tree: Path, python: str, folder: Path) -> List[str]:
    """Install what the tree's tests need, as far as it can be had; say what could not be."""
    files = [tree / "requirements" / "requirements_test.txt", tree / "requirements_test.txt"]
    listed = next((file for file in files if file.is_file()), None)
    install = ("pip", "install", "--python", python, "--target", str(folder))
    lines = ["pytest", "pytest-xdist"]
    if listed:
        done = run_uv(*install, "-r", str(listed), "pytest-xdist", check=False)
        if done.returncode == 0:
            return []
        text = listed.read_text("utf-8").splitlines()
        lines += [line.split(" #")[0].strip() for line in text if line[:1].isalpha()]
    lost = []
    for line in lines:
        done = run_uv(*install, line, check=False)
        if done.returncode:
            lost.append(f"what the tests need was not all installed: {line}: {why(done.stderr)}")
    return lost[:5]


def _outcomes(file: Path) -> Outcomes:
    found: Outcomes = {}
    for case in xml.etree.ElementTree.parse(file).iter("testcase"):
        path = case.get("file") or ""
        module = path[: -len(".py")].replace("/", ".")
        inner = (case.get("classname") or "")[len(module) + 1 :]
        name = "::".join(filter(None, [path, inner.replace(".", "::"), case.get("name")]))
        states = {child.tag for child in case}
        state = "failed" if {"failure", "error"} & states else "passed"
        found[name] = "skipped" if state == "passed" and "skipped" in states else state
    return found


def _fails(outcome: object) -> bool:
    return outcome == "failed"


def _counts(found: Outcomes) -> Dict[str, int]:
    states = list(found.values())
    return {state: states.count(state) for state in ("passed", "failed", "skipped")}
