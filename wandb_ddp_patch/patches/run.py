"""Run: what is pickled arrives without its config, if at all (issues 4458, 8619; since 0.10.23).

wandb pickles three fields of a run, from 0.12.5 on, and refuses to load them in the process
that wrote them (0.12.12 on); a worker's run has an empty config (0.13 to 0.31.0), no name
before it attaches (issue 8619), and waits for a service that is gone (issue 9948). Before
0.12.5 what arrives is hollow.

With the patch, it is the same object in its owner, and elsewhere a run that attaches at
first use.
"""

from __future__ import annotations

import copy
import os
import sys
from typing import TYPE_CHECKING, Any, List

from .._patching import (
    Patch,
    Undo,
    patch_class,
    require_class,
    set_attribute,
    throwaway_subclass,
    wraps_original,
)
from ..runs import dispatch

if TYPE_CHECKING:
    from ..runs.state import OwnerState


class Run:
    """What wandb.sdk.wandb_run.Run should have had, beside what dispatch.py gives it."""

    @wraps_original
    def __init__(original, self, *args, **kwargs):
        original(self, *args, **kwargs)
        _register(self)

    def __reduce__(self):
        from ..worker import reduce_run

        return reduce_run(self)

    @wraps_original
    def _atexit_cleanup(original, self, exit_code=None):
        # A run that nobody has finished is finished here, at the interpreter's exit.
        from ..runs.state import OwnerState, get_state

        run_state = get_state(self)
        if isinstance(run_state, OwnerState):
            _close(self, run_state)
        # A worker of spawn() has failed: W&B is to show that as if this process had.
        return original(self, exit_code or getattr(run_state, "exit_code", None))

    @wraps_original
    def _telemetry_callback(original, self, *args, **kwargs):
        # Setting config items and importing modules end up here. Neither is a reason to
        # attach a fork's run; and without attaching, wandb's own would raise ForkedError.
        from ..runs.state import get_state

        run_state = get_state(self)
        if run_state is None or not run_state.is_worker or run_state.is_attached:
            original(self, *args, **kwargs)

    @wraps_original
    def _summary_get_current_summary_callback(original, self):
        # The service has let go of a finished run: from 0.13 to 0.16 it never answers.
        final = self.__dict__.get("_final_summary")
        if final is None:
            return original(self)
        if isinstance(final, dict):
            return final
        from wandb.sdk.lib.proto_util import dict_from_proto_list

        return dict_from_proto_list(final.item)


class RunThatAttaches:
    """The same, for releases in which a run attaches to its service."""

    @wraps_original
    def _init(original, self, *args, **kwargs):
        # Attaching builds an empty config: put back the one that the run was forked or
        # unpickled with, which the user may hold already.
        own = self.__dict__
        config = own.get("_config")
        if config is None:  # wandb.init() makes a new run
            original(self, *args, **kwargs)
            return
        if "_settings" not in own and not args and not kwargs:
            from ..runs.compat import settings_of
            from ..runs.state import get_state

            own["_settings"] = settings_of(self, get_state(self).metadata)
        original(self, *args, **kwargs)
        config._set_settings(self._settings)
        own["_config"] = config


class RunAttachedById:
    """The same: a worker may attach without having been passed the run."""

    @wraps_original
    def _on_attach(original, self):
        # Lightning's WandbLogger attaches so. The run stays its owner's: if this process
        # counted as the owner, it would finish the run, for all, when it ends.
        from ..runs.state import get_state

        if not get_state(self).is_worker:
            from ..handover.payload import adopt_attached_run

            adopt_attached_run(self)
        original(self)


class RunWithJobInputs:
    """The same, for releases whose runs take inputs of W&B's launch jobs (0.17 on)."""

    @wraps_original
    def _detect_and_apply_job_inputs(original, self):
        # To find that there are none, wandb imports all that launches jobs: most of what
        # attaching costs. Inputs are kept in that module only, so without it there are none.
        from ..runs.state import get_state

        if not get_state(self).is_worker or _JOB_INPUTS in sys.modules:
            original(self)


class RunWithHistory:
    """The same, for releases in which a run collects the values of a row (to 0.12.9)."""

    @wraps_original
    def log(original, self, *args, **kwargs):
        # Without the lock, rows that two threads log at the same time would become one.
        from ..runs import execute

        deferred = []
        with execute.history_lock:
            execute.deferred_rows.rows = deferred
            try:
                original(self, *args, **kwargs)
            finally:
                execute.deferred_rows.rows = None
        for row, step in deferred:
            self._history_callback(row=row, step=step)

    @wraps_original
    def _history_callback(original, self, row, step):
        # To write a table or a file, wandb may ask the network: not under the lock, where
        # every other thread that logs would wait for the answer.
        from ..runs import execute

        deferred = getattr(execute.deferred_rows, "rows", None)
        if deferred is None or execute.is_json_like(row):
            original(self, row=row, step=step)
        else:
            deferred.append((row, step))


def _register(run: Any) -> None:
    """Register a new run as one that this process owns."""
    # fork: a fork of this process may inherit a run from now on. Its import registers the hooks.
    from ..handover import fork, parent_run  # noqa: F401
    from ..runs import flush
    from ..runs.state import ensure_owner_state

    ensure_owner_state(run)
    flush.finish_own_runs_at_exit()
    parent_run.forget()
    parent_run.offer()


def _close(run: Any, owned: OwnerState) -> None:
    """Close a run of this process for its workers, before it is finished."""
    if owned.published:
        from ..transports import selection

        selection.close(run, owned)
    owned.finished = True


_MODULE = "wandb.sdk.wandb_run"
_JOB_INPUTS = "wandb.sdk.launch.inputs.internal"
# Through which the config and the summary reach the run.
_CALLBACKS = (
    "_config_callback",
    "_summary_get_current_summary_callback",
    "_summary_update_callback",
)


def _install(undo: List[Undo]) -> None:
    run_class = require_class(_MODULE, "Run", ("config", "log", "finish", *_CALLBACKS))
    patch_class(undo, run_class, Run)
    if hasattr(run_class, "_init"):
        patch_class(undo, run_class, RunThatAttaches)
    if hasattr(run_class, "_on_attach"):
        patch_class(undo, run_class, RunAttachedById)
    job_inputs = vars(run_class).get("_detect_and_apply_job_inputs")
    if _JOB_INPUTS in getattr(getattr(job_inputs, "__code__", None), "co_names", ()):
        patch_class(undo, run_class, RunWithJobInputs)
    if hasattr(run_class, "_history_callback"):
        patch_class(undo, run_class, RunWithHistory)
    # Last: a call goes by the run's state first, and then through what is patched above.
    for name, member in dispatch.wrapped_members(run_class, _close):
        undo.append(set_attribute(run_class, name, member))
    run = getattr(sys.modules.get("wandb"), "run", None)
    if run is not None:
        _register(run)
        if run.__dict__.get("_init_pid", os.getpid()) != os.getpid():
            # This package was first imported in a fork, after wandb.init(): there was no hook
            # yet that would have told this process that the run is its parent's.
            from ..handover import fork

            fork.inherit(run)


def _is_fixed() -> bool:
    run_class = require_class(_MODULE, "Run")
    if vars(run_class).get("__reduce__") is vars(Run)["__reduce__"]:
        return True
    # Some day wandb's runs may be the same object in their owner, and still arrive in a
    # worker without their config.
    return is_same_run_in_owner() and "an item" in repr(_throwaway_run().__reduce_ex__(2))


def is_same_run_in_owner() -> bool:
    """Return True if a run that is copied, or pickled, in its own process is that run."""
    run = _throwaway_run()
    return copy.copy(run) is run


def _throwaway_run() -> Any:
    # No real run, but enough of one to see what copying and pickling make of it.
    run_class = throwaway_subclass(require_class(_MODULE, "Run"))
    run = run_class.__new__(run_class)
    run.__dict__.update(_config={"an item": 1}, _attach_id=None, _settings={}, _init_pid=0)
    return run


PATCHES = [
    Patch(
        modules=(_MODULE,),
        name="Run",
        install=_install,
        is_fixed=_is_fixed,
        why="a run comes back as itself in its own process, and arrives in a worker"
        " with its name and config (issues 4458, 8619, 9948)",
        since="0.10.23 or earlier",
    ),
]
