"""Measuring: many environments are created, and many probes run, at once."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List, Optional

from wandb_ddp_patch import probes
from wandb_ddp_patch.errors import CommandError

from . import report, suite
from .plan import Plan
from .prepare import prepare, remove

# A probe that has hung has so many times as long when it is run again: others are still running,
# and where eight do on two processors, it takes half a minute alone to import 0.22.3.
_SECOND_LIMIT = 4


class Measurement:
    """A plan, carried out.

    Attributes:
        data: The report, which grows while it is measured.
    """

    def __init__(self, plan: Plan, live: report.Live, timeout: float, folder: Optional[Path]):
        """Begin with nothing measured.

        Args:
            plan: What to run.
            live: Where it is shown meanwhile.
            timeout: Seconds after which a probe counts as hanging; 4 times as many the second time.
            folder: Where the report is written each time there is news.
        """
        self.data = plan.report()
        self._plan = plan
        self._live = live
        self._timeout = timeout
        self._folder = folder
        # Of each entry, the interpreter of each side.
        self._interpreters: List[Dict[str, str]] = [{} for _ in plan.entries]
        self._writing = threading.Lock()

    def run(
        self,
        jobs: Optional[int] = None,
        keep: bool = False,
        tests: Optional[suite.SuiteOptions] = None,
    ) -> Dict[str, Any]:
        """Measure all of it, and return the report.

        Args:
            jobs: How many probe processes run at once; by default two for each core,
                for they wait a lot.
            keep: Whether environments of trees and files stay in the cache.
            tests: Which of the trees' own tests are run as well.
        """
        try:
            with self._live, ThreadPoolExecutor(jobs or 2 * (os.cpu_count() or 1)) as pool:
                self._run_in(pool)
            for number in range(len(self._plan.entries)) if tests else ():
                self._test(number, tests)
            return self.data
        finally:
            if not keep:
                for entry, interpreters in zip(self._plan.entries, self._interpreters):
                    remove(entry, interpreters)

    def _run_in(self, pool: ThreadPoolExecutor) -> None:
        numbers = range(len(self._plan.entries))
        todo = [(number, side) for number in numbers for side in self._plan.sides]
        futures: List[Future[None]] = []
        try:
            # All environments first: a release that can't be had is known at once.
            futures += [pool.submit(self._prepare, number) for number in numbers]
            for future in futures:
                future.result()
            futures += [pool.submit(self._probe, *item) for item in todo]
            for future in futures:
                future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            probes.stop()
            raise

    def _prepare(self, number: int) -> None:
        shown, interpreters = self.data["environments"][number], self._interpreters[number]
        try:
            prepare(self._plan.entries[number], shown, self._plan.sides, interpreters)
        except (CommandError, OSError) as error:
            shown["error"] = " ".join(str(error).split())
            self._live.error(shown["label"], shown["error"])
        self._write()

    def _probe(self, number: int, side: str) -> None:
        shown, python = self.data["environments"][number], self._interpreters[number].get(side)
        if python and not shown["error"]:
            _probe(shown, side, python, self._plan.names, self._timeout, self._live)
        self._write()

    def _test(self, number: int, options: Optional[suite.SuiteOptions]) -> None:
        shown, tree = self.data["environments"][number], self._plan.entries[number][0].tree
        if shown["error"] or tree is None or options is None:
            return
        try:
            shown["tests"] = suite.compare(tree, self._interpreters[number], options)
            shown["notes"] += shown["tests"]["words"]
        except (CommandError, OSError) as error:
            shown["notes"].append(" ".join(str(error).split()))
        self._write()

    def _write(self) -> None:
        if self._folder:
            with self._writing:
                report.write(self.data, self._folder)


def _probe(
    entry: Dict[str, Any],
    side: str,
    python: str,
    names: List[str],
    timeout: float,
    live: report.Live,
) -> None:
    verdicts = entry["verdicts"].setdefault(side, {})

    def done(verdict: probes.Verdict) -> None:
        kept = {key: val for key, val in vars(verdict).items() if key != "name"}
        probe = probes.PROBES[verdict.name]
        # Only what fails for its own reason proves that the patch, or a change, mends it.
        if side == "without" and verdict.passed is False:
            kept["otherwise"] = not probe.is_why(verdict.reason, verdict.trace)
        verdicts[verdict.name] = kept
        live.verdict(entry["label"], side, verdict.name, kept)

    patched = side == "with"
    found = probes.run_all(names, patched=patched, python=python, timeout=timeout, done=done)
    if side != "without":
        longer = _SECOND_LIMIT * timeout
        probes.again(found, patched=patched, python=python, timeout=longer, done=done)
