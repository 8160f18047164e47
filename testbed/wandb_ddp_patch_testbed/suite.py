"""wandb's own unit tests on a tree: as it is, with the patch, and with the exported diff."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import wandb_ddp_patch
from wandb_ddp_patch.errors import CommandError

from . import export
from .outcomes import Outcomes, counts, doubt, fails, read
from .uvtool import run_uv, why

_PACKAGE = Path(wandb_ddp_patch.__file__).resolve().parent
# All of the unit tests take some minutes.
_LIMIT_SECONDS = 3600


@dataclass(frozen=True)
class SuiteOptions:
    """Which tests are to be run.

    Attributes:
        paths: Files or folders in the tree.
        maxfail: After so many failures, a run is ended.
        jobs: How many processes run them.
    """

    paths: Tuple[str, ...] = ("tests/unit_tests",)
    maxfail: int = 100
    jobs: int = 2


def compare(tree: Path, pythons: Mapping[str, str], options: SuiteOptions) -> Dict[str, Any]:
    """Run a tree's tests from three sides, and compare the outcomes.

    Args:
        tree: The source tree.
        pythons: The interpreter of each side: ``without``, ``with`` and ``export``.
        options: Which tests.

    Returns:
        ``words`` for people; ``worse``: the tests that passed as it is, and fail on another
        side, by side; ``counts`` of the outcomes, by side; ``unproven``: the change's new
        tests that prove nothing.
    """
    missing = [path for path in options.paths if not (tree / path).exists()]
    if missing:
        words = [f"wandb's own tests were not run: there is no {missing[0]} (an sdist has none)"]
        return {"words": words, "worse": {}, "counts": {}, "unproven": []}
    folder = Path(tempfile.mkdtemp(prefix="wandb_ddp_patch-tests-"))
    try:
        return _Suite(tree, pythons, options, folder).compare()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Suite:
    def __init__(
        self, tree: Path, pythons: Mapping[str, str], options: SuiteOptions, folder: Path
    ) -> None:
        self._pythons, self._options, self._folder = pythons, options, folder
        self._words = _install(tree, pythons["without"], folder / "needs")
        found = export.change(tree)
        # Without wandb beside them: they are to import the one of the environment.
        for name in ("plain", "export"):
            for part in ("tests", "pyproject.toml"):
                if (tree / part).is_dir():
                    shutil.copytree(tree / part, folder / name / part, symlinks=True)
                elif (tree / part).is_file():
                    shutil.copyfile(tree / part, folder / name / part)
        self._topics = found.topics
        self._changed = [file for file in found.files if file.startswith("tests/unit_tests/")]
        for file, text in found.files.items():
            if file.startswith("tests/"):
                (folder / "export" / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / "export" / file).write_text(text, "utf-8")
        # A copy, alone in its folder: beside the original there may be another wandb.
        shutil.copytree(_PACKAGE, folder / "patched" / "wandb_ddp_patch")

    def compare(self) -> Dict[str, Any]:
        paths = self._options.paths
        sides = {side: self._run(side, paths) for side in ("without", "with", "export")}
        before, worse = sides["without"], {}
        for side in ("with", "export"):
            worse[side] = self._worse(side, before, sides[side])
        self._say(before, worse)
        return {
            "unproven": self._prove(before, sides["export"]),
            "words": self._words,
            "worse": worse,
            "counts": {side: counts(found) for side, found in sides.items()},
        }

    def _worse(self, side: str, before: Outcomes, now: Outcomes) -> List[str]:
        """Return the tests that pass on the tree as it is and fail on a side, both times."""
        fine = [name for name, how in before.items() if how.state == "passed"]
        differ = [name for name in fine if fails(now.get(name))]
        # Absent from the report: their file can't be imported, or their process died.
        gone = [] if self._is_cut(now) else [name for name in fine if name not in now]
        if differ:
            again = self._run(side, differ, alone=True)
            once = self._run("without", differ, alone=True)
            differ = [n for n in differ if fails(again.get(n)) and not fails(once.get(n))]
        return differ + gone

    def _is_cut(self, found: Outcomes) -> bool:
        return sum(map(fails, found.values())) >= self._options.maxfail

    def _say(self, before: Outcomes, worse: Dict[str, List[str]]) -> None:
        failing = sum(map(fails, before.values()))
        self._words.append(
            f"Of wandb's own {len(before)} unit tests, {failing} fail on this tree as it is"
            + (", with which the run was ended (--maxfail)" if self._is_cut(before) else "")
        )
        for side, what in (("with", "With the patch"), ("export", "With the change")):
            names = ", ".join(worse[side][:5])
            self._words.append(
                f"{what}, {len(worse[side])} others fail" + (f": {names}" if names else "")
            )

    def _prove(self, before: Outcomes, export: Outcomes) -> List[str]:
        """Run the change's new tests without it; return those that prove nothing."""
        new = [name for name in export if name not in before]
        if not new or not self._changed:
            return []
        plain = self._run("new", self._changed)
        doubts = {
            name: "it fails with the change, too"
            if fails(export[name])
            else doubt(name, plain.get(name), self._topics)
            for name in new
        }
        unproven = [name for name in new if doubts[name]]
        well = [name for name in new if not doubts[name]]
        reasons = sum(fails(plain.get(name)) for name in well)
        self._words += [
            f"Of its {len(new)} new tests, {reasons} fail without the change, for the reasons that"
            f" they name, and {len(well) - reasons} pass there, as they say",
            f"With the change, {sum(export[name].state == 'passed' for name in new)} of them pass",
            *(f"{name} proves nothing: {doubts[name]}" for name in unproven),
        ]
        return unproven

    def _run(self, side: str, names: Sequence[str], alone: bool = False) -> Outcomes:
        """Run tests, one at a time if ``alone``; return the outcome of each, by its node ID."""
        where = self._folder / ("export" if side in ("export", "new") else "plain")
        python = self._pythons["export" if side == "export" else "without"]
        result = self._folder / "result.xml"
        if result.exists():
            result.unlink()
        path = [str(self._folder / "needs")]
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts="]
        command += ["-o", "junit_family=xunit1", f"--junitxml={result}"]
        command += [f"--maxfail={self._options.maxfail}"]
        if (self._folder / "needs" / "xdist").is_dir() and not alone:
            command += ["-n", str(self._options.jobs)]
        if side == "with":
            path.append(str(self._folder / "patched"))
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
            raise CommandError(f"wandb's own tests did not end within {_LIMIT_SECONDS} s") from None
        if not result.exists():
            raise CommandError(f"wandb's own tests can't be run: {_last(done.stdout)}")
        return read(result)


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "pytest says nothing"


def _install(tree: Path, python: str, folder: Path) -> List[str]:
    """Install what the tree's tests need, as far as possible; return what is missing."""
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
