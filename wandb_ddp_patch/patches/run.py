"""The run: the same object at home, a run that attaches at first use elsewhere.

wandb pickles three fields of a run, from 0.12.5 on, and refuses to load them
in the process that wrote them (0.12.12 on); a worker's run has an empty config
(0.13 to 0.31.0), no name before it attaches (issue 8619), and waits for a
service that is gone (issue 9948). Before 0.12.5 what arrives is hollow.
"""

from __future__ import annotations

import copy
import os
import sys
from typing import Any, List

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


class Run:
    """What wandb.sdk.wandb_run.Run should have had, beside what dispatch.py gives it."""

    @wraps_original
    def __init__(upstream, self, *args, **kwargs):
        upstream(self, *args, **kwargs)
        begin(self)

    def __reduce__(self):
        from ..worker import reduce_run  # late: importing wandb must stay quick

        return reduce_run(self)

    @wraps_original
    def _atexit_cleanup(upstream, self, exit_code=None):
        # This is where a run is finished that nobody has finished.
        tied = state().get_state(self)
        if isinstance(tied, state().OwnerState):
            end(self, tied)
        # A worker of spawn() has failed: that counts as a failure of ours does.
        return upstream(self, exit_code or getattr(tied, "exit_code", None))

    @wraps_original
    def _telemetry_callback(upstream, self, *args, **kwargs):
        # Setting config items and importing modules come here: neither is a
        # reason to attach a fork, and unattached it would raise ForkedError.
        tied = state().get_state(self)
        if tied is None or not tied.is_worker or tied.is_attached:
            upstream(self, *args, **kwargs)

    @wraps_original
    def _summary_get_current_summary_callback(upstream, self):
        # The service has let go of a finished run: from 0.13 to 0.16 it never answers.
        final = self.__dict__.get("_final_summary")
        if final is None:
            return upstream(self)
        return final if isinstance(final, dict) else items_of(final)


class RunThatAttaches:
    """The same, for releases in which a run attaches to its service."""

    @wraps_original
    def _init(upstream, self, *args, **kwargs):
        # Attaching builds an empty config: put back the one that the run was
        # forked or unpickled with, which the user may hold already.
        own = self.__dict__
        config = own.get("_config")
        if config is None:  # wandb.init() makes a new run
            upstream(self, *args, **kwargs)
            return
        if "_settings" not in own and not args and not kwargs:
            own["_settings"] = compat().settings_of(self, state().get_state(self).metadata)
        upstream(self, *args, **kwargs)
        config._set_settings(self._settings)
        own["_config"] = config


class RunAttachedById:
    """The same: a worker may attach without having been passed the run."""

    @wraps_original
    def _on_attach(upstream, self):
        # As Lightning's WandbLogger does. The run is its owner's all the same: else this
        # process would finish it, for all, when it ends.
        if not state().get_state(self).is_worker:
            payload().adopt_attached_run(self)
        upstream(self)


class RunWithJobInputs:
    """The same, for releases whose runs take inputs of W&B's launch jobs (0.17 on)."""

    @wraps_original
    def _detect_and_apply_job_inputs(upstream, self):
        # To find none, wandb imports all that launches jobs: most of what attaching takes.
        # Inputs are kept in that module only.
        if not state().get_state(self).is_worker or _JOB_INPUTS in sys.modules:
            upstream(self)


class RunWithHistory:
    """The same, for releases in which a run puts rows together (to 0.12.9)."""

    @wraps_original
    def log(upstream, self, *args, **kwargs):
        # Rows that two threads log at the same time would become one.
        room, slow = execute(), []
        with room.history_lock:
            room.deferred_rows.rows = slow
            try:
                upstream(self, *args, **kwargs)
            finally:
                room.deferred_rows.rows = None
        for row, step in slow:
            self._history_callback(row=row, step=step)

    @wraps_original
    def _history_callback(upstream, self, row, step):
        # What tables and files hold may be asked of the network: not while all others wait.
        room = execute()
        slow = getattr(room.deferred_rows, "rows", None)
        if slow is None or room.is_json_like(row):
            upstream(self, row=row, step=step)
        else:
            slow.append((row, step))


# Late, all of them, because importing wandb must stay quick: states and forks matter once
# there is a run, transports end where there were workers, and most releases lack nothing.


def items_of(summary):
    from wandb.sdk.lib import proto_util

    return proto_util.dict_from_proto_list(summary.item)


def state():
    from ..runs import state

    return state


def payload():
    from ..handover import payload

    return payload


def begin(run):
    from ..handover import fork, parent_run  # noqa: F401  (forks: from now on)
    from ..runs import flush

    state().owner_state(run)
    flush.finish_own_runs_at_exit()
    parent_run.forget()
    parent_run.offer()


def fork():
    from ..handover import fork

    return fork


def end(run, owned):
    if owned.shared:
        from ..transports import selection

        selection.close(run, owned)
    owned.finished = True


def compat():
    from ..runs import compat

    return compat


def execute():
    from ..runs import execute

    return execute


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
    for name, member in dispatch.wrapped_members(run_class, end):
        undo.append(set_attribute(run_class, name, member))
    run = getattr(sys.modules.get("wandb"), "run", None)
    if run is not None:
        begin(run)
        if run.__dict__.get("_init_pid", os.getpid()) != os.getpid():
            fork().inherit(run)  # we were imported in a fork, after wandb.init()


def _is_fixed() -> bool:
    run_class = require_class(_MODULE, "Run")
    if vars(run_class).get("__reduce__") is vars(Run)["__reduce__"]:
        return True
    # A wandb whose runs come back as themselves at home may still know too little elsewhere.
    return is_itself_at_home() and "an item" in repr(_throwaway_run().__reduce_ex__(2))


def is_itself_at_home() -> bool:
    """Try whether a run that is copied, or pickled, in its own process is that run."""
    run = _throwaway_run()
    return copy.copy(run) is run


def _throwaway_run() -> Any:
    # A run that is no run: enough to see what becomes of it.
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
