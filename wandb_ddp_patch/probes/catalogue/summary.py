"""Summaries: names, copies, and what a worker reads."""

from __future__ import annotations

import contextlib
import copy
import multiprocessing
import pickle
import time
from typing import Any, Tuple

from ..multiprocess import AT_ONCE_SECONDS, in_worker
from ..offline_run import offline_run
from ..registry import CannotRun, check, probe


@probe(2007, fails="KeyError: 'missing'")
def summary_names() -> None:
    """hasattr() works on a summary."""
    with offline_run() as run:
        run.log({"x": 1})
        check(hasattr(run.summary, "x") and run.summary.x == 1, "x is not an attribute")
        for name in ("missing", "__missing__"):
            check(not hasattr(run.summary, name), f"it has {name}")
        with contextlib.suppress(KeyError):
            run.summary.missing  # noqa: B018
    with offline_run("disabled") as run:
        check(not hasattr(run.summary, "missing"), "a disabled run's has it")


@probe(fails="RecursionError|KeyError: '__")
def summary_copy() -> None:
    """A summary and its nested parts can be copied, pickled and sent to a worker."""
    with offline_run() as run:
        run.summary["best"] = {"loss": 0.5}
        run.summary["x"] = 1
        check(run.summary["best"]["loss"] == 0.5, "the summary is not there")
        for copied in (copy.copy(run.summary), copy.deepcopy(run.summary)):
            copied["x"] = 2
            copied["best"]["loss"] = 0.1
            check((copied["x"], copied["best"]["loss"]) == (2, 0.1), "the copy can't be changed")
        sub = copy.deepcopy(run.summary["best"])
        sub["loss"] = 0.1
        check((run.summary["x"], run.summary["best"]["loss"]) == (1, 0.5), "the run changed")
        copied = pickle.loads(pickle.dumps(run.summary))
        check(copied["x"] == 1, "the pickled summary differs")
        copied["x"] = 3
        check(run.summary["x"] == 3, "the pickled summary is not the run's")
        got = in_worker(_read_summary, run.summary, run.summary["best"])
        check(got == (3, 0.5, 0.5), f"got {got}")
    with offline_run("disabled") as run:
        run.summary["best"] = {"loss": 0.5}
        got = in_worker(_read_disabled_summary, copy.deepcopy(run.summary))
        check(got == 0.5, f"disabled: got {got}")


def _read_summary(summary: Any, best: Any) -> Tuple[Any, ...]:
    return summary["x"], summary["best"]["loss"], best["loss"]


def _read_disabled_summary(summary: Any) -> Any:
    return summary["best"]["loss"]


@probe(fails="KeyError: '__deepcopy__'|backend process has shutdown|is closed|^hangs")
def summary_finished() -> None:
    """A finished run's last known summary can be read, copied and pickled without a wait."""
    with offline_run() as run:
        run.log({"x": 1})
        run.summary["best"] = {"loss": 0.5}
    begun = time.monotonic()
    payload = pickle.dumps(run.summary)
    for got in (run.summary, copy.deepcopy(run.summary), pickle.loads(payload)):
        check((got["x"], got["best"]["loss"]) == (1, 0.5), f"got {dict(got)}")
    check(time.monotonic() - begun < AT_ONCE_SECONDS, "it took seconds")
    got = in_worker(_read_finished, run.summary, run.summary["best"])
    check(got == (1, 0.5), f"a worker got {got}")


def _read_finished(summary: Any, best: Any) -> Tuple[Any, ...]:
    return summary["x"], best["loss"]


@probe(fails=r"got \w+|^hangs")
def summary_fork() -> None:
    """A forked worker can read the summary without a wait."""
    if "fork" not in multiprocessing.get_all_start_methods():
        raise CannotRun("this platform has no fork")
    with offline_run() as run:
        run.summary["x"] = 1
        check(run.summary["x"] == 1, "the summary is not there")
        got, seconds = in_worker(_read_x, run, method="fork")
        check(got == 1, f"got {got}")
        check(seconds < AT_ONCE_SECONDS, "it took seconds")


def _read_x(run: Any) -> Tuple[Any, float]:
    begun = time.monotonic()
    got: Any
    try:
        got = run.summary["x"]
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
    return got, time.monotonic() - begun
