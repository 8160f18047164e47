"""Runs without a service: it is gone, or the run is disabled."""

from __future__ import annotations

import copy
import pickle
import time
from typing import Any, Tuple

from ..multiprocess import AT_ONCE_SECONDS, UNUSABLE, in_worker, load_in_new_session
from ..offline_run import ITEMS, config_items, offline_run, read_run, run_facts
from ..registry import check, probe


@probe(9948, fails=f"{UNUSABLE}|^hangs", waits=True)
def run_gone() -> None:
    """A run that is loaded when its service is gone can be read; logging gives the reason."""
    run_id, data = in_worker(_pickle_a_run)
    got, error, seconds = load_in_new_session(data, _use_gone_run)
    check(got == run_facts(run_id), f"got {got}")
    check(run_id in error, f"the error does not name the run: {error}")
    check(seconds < AT_ONCE_SECONDS, "reading and the error took seconds")


def _pickle_a_run() -> Tuple[str, bytes]:
    with offline_run() as run:
        return run.id, pickle.dumps(run)


def _use_gone_run(run: Any) -> Tuple[Any, str, float]:
    begun = time.monotonic()
    got = read_run(run)
    try:
        run.log({"x": 1})
    except Exception as error:
        return got, str(error), time.monotonic() - begun
    raise AssertionError("log said nothing")


@probe(4458, fails="made another run|state is not a dictionary")
def run_disabled() -> None:
    """A disabled run can be copied, pickled and sent to a worker, and still accepts calls."""
    with offline_run("disabled") as run:
        run.log({"x": 1})
        check(pickle.loads(pickle.dumps(run)) is run, "pickle made another run")
        check(copy.copy(run) is run, "copy made another run")
        got = in_worker(_use_disabled_run, run)
        check(got == (run.id, ITEMS, 2), f"got {got}")


def _use_disabled_run(run: Any) -> Tuple[Any, ...]:
    check(run.disabled, "it is not disabled")
    check(run.summary["x"] == 1, "its summary differs")
    run.log({"x": 2})
    return run.id, config_items(run.config), run.summary["x"]
