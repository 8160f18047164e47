"""A run for a probe: offline, in a folder of its own. What it holds, and which rows arrived."""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import tempfile
import time
from typing import Any, Dict, Iterator, List, Tuple

from .. import runfile
from .registry import check

API_KEY = "0123456789abcdef" * 2 + "deadbeef"  # the shape of a real one

# The config of the run.
ITEMS: Dict[str, Any] = {"lr": 0.1, "layers": [1, 2], "nested": {"depth": 1}}

# Some releases write rows late. Where none has arrived for so long, none will.
_ROWS_SECONDS = 20


@contextlib.contextmanager
def offline_run(mode: str = "offline") -> Iterator[Any]:
    """Start a run in a folder of its own, and finish it at the end of the block.

    Args:
        mode: As for ``wandb.init()``: ``"offline"`` or ``"disabled"``.
    """
    import wandb

    os.environ["WANDB_API_KEY"] = API_KEY
    here = os.getcwd()
    os.chdir(tempfile.mkdtemp(dir=_folder().name))
    run: Any = wandb.init(
        mode=mode,  # type: ignore[arg-type]
        project="probe",
        group="group",
        name="name",
        config=copy.deepcopy(ITEMS),
    )
    try:
        yield run
    finally:
        wandb.finish()
        os.chdir(here)


@functools.lru_cache(maxsize=None)
def _folder() -> tempfile.TemporaryDirectory[str]:
    # One for the process, not one for each run: old services fail in a folder that is gone.
    return tempfile.TemporaryDirectory(prefix="wandb_ddp_patch-probes-")


# --- what it holds -----------------------------------------------------------


def config_items(config: Any) -> Dict[str, Any]:
    """Return a config's items, without wandb's own."""
    return {key: val for key, val in dict(config).items() if not key.startswith("_")}


def read_run(run: Any) -> Tuple[Any, ...]:
    """Return a run's id, name, project, group and config, as the run itself tells them."""
    check(run.url is None, "an offline run has a URL")
    return run.id, run.name, run.project, run.group, config_items(run.config)


def run_facts(run_id: str) -> Tuple[Any, ...]:
    """Return what :func:`read_run` must return for an :func:`offline_run` of this id."""
    return run_id, "name", "probe", "group", ITEMS


def log_and_read(run: Any) -> Tuple[Any, ...]:
    """Log ``x`` = 7; return the summary's ``x``, and the items of run.config and wandb.config."""
    import wandb

    before = run.config
    run.log({"x": 7})
    check(wandb.run is run, "wandb.run is not the run")
    check(before is run.config, "run.config is another object than before")
    return run.summary["x"], config_items(run.config), config_items(wandb.config)


# --- its rows ----------------------------------------------------------------


def log_rows(run: Any, name: str, rows: int) -> None:
    """Log rows with one value each, of this name."""
    for n in range(rows):
        run.log({name: n})


def run_path(run: Any) -> str:
    """Return the path of the run's transaction log, which may not exist yet."""
    return os.path.join(os.path.dirname(run.dir), f"run-{run.id}.wandb")


def check_rows(path: str, expected: Dict[str, int]) -> None:
    """Wait until the expected rows are in a run's transaction log.

    Args:
        path: The file.
        expected: By name, how many rows have a value of that name.

    Raises:
        AssertionError: There are more, or no more have arrived for 20 s.
    """
    before, since = None, time.monotonic()
    while True:
        rows: List[Dict[str, str]] = []
        with contextlib.suppress(runfile.BrokenFile):  # it may still be empty
            rows = runfile.history(path)
        got = {name: sum(name in row for row in rows) for name in expected}
        if got == expected:
            return
        if got != before:
            before, since = got, time.monotonic()
        if time.monotonic() > since + _ROWS_SECONDS:
            raise AssertionError(f"rows that arrived: {got}, expected: {expected}")
        time.sleep(0.2)
