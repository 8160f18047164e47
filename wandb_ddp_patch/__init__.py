"""Make Weights & Biases objects survive multi-process training.

Importing this package is applying it: ``wandb.config``, the run, the summary and everything
that holds them can then be handed to worker processes, copied and pickled. It began with
https://github.com/wandb/wandb/issues/2007.

Environment variable ``WANDB_DDP_PATCH=0`` turns it off. Importing it imports nothing that a
bare interpreter has not loaded: the rest of the package is imported once wandb or torch is.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, Optional, Tuple

    from ._status import Status

__all__ = ["__version__", "apply", "broadcast", "revert", "share", "spawn", "status"]
__all__ += ["use_forkserver", "warm_up"]
__version__ = "0.1.0"


def _enabled() -> bool:
    return sys.version_info >= (3, 8) and os.environ.get("WANDB_DDP_PATCH") != "0"


class _Finder:
    """Stands first in ``sys.meta_path``, and lets _import_hook.py find what it watches."""

    # wandb itself, each of its modules that holds a class which we amend (a reload makes a
    # new class), torch, whose safe globals we extend, its spawn, and yaml, whose representers;
    # copies of multiprocessing, which may be imported when there is a run already.
    watched = frozenset(
        {"billiard.process", "multiprocess.process"}
        | {"torch", "torch.multiprocessing.spawn", "wandb", "wandb.apis.internal", "yaml"}
        | {"wandb.integration.torch.wandb_torch", "wandb.wandb_torch"}
        | {"wandb.sdk.artifacts.artifact", "wandb.sdk.interface.interface"}
        | {"wandb.sdk.artifacts.storage_policies.wandb_storage_policy"}
        | {"wandb.sdk.lib.disabled", "wandb.sdk.lib.preinit", "wandb.sdk.wandb_config"}
        | {"wandb.sdk.wandb_run", "wandb.sdk.wandb_setup", "wandb.sdk.wandb_summary"}
    )
    forkserver = False  # whether use_forkserver() has been called
    late = False  # whether a lazy import has run after wandb's, and nobody has called apply()

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        if name in self.watched:
            try:
                from ._import_hook import find_spec_behind
            except Exception:
                return None  # of this package, only a part is left
            return find_spec_behind(self, name, path, target)
        return None

    def on_imported(self, name: str) -> None:
        # Late: _registry needs modules that only wandb or torch brings into the process.
        # torch.load may meet a config before anybody has imported wandb.
        if name == "torch.multiprocessing.spawn":
            self.apply_spawn_setting()
        elif name.endswith(".process"):
            if __name__ + ".handover.parent_run" in sys.modules:
                sys.modules[__name__ + ".handover.parent_run"].offer()
        elif name == "torch" or "wandb" in sys.modules:
            from . import _registry

            _registry.apply(after=name)

    def apply_spawn_setting(self) -> None:
        asked = None if self.forkserver else os.environ.get("WANDB_DDP_PATCH_SPAWN") or "spawn"
        if asked != "spawn" and "torch.multiprocessing.spawn" in sys.modules:
            from .forkserver.unchanged import start_processes

            start_processes.apply(asked)


_finder = _Finder()


class _ParentRun(bytes):
    """The run of handover/parent_run.py, as it travels: whoever loads it imports this package.

    joblib's workers import neither the script nor anything else that would.
    """


def _is_ours(finder: object) -> bool:
    # By name: a test may import this package twice. The start-up module is a finder, too.
    kind = type(finder)
    return (kind.__module__, kind.__name__) == (__name__, "_Finder") or (
        finder is sys.modules.get(__name__ + "_startup")
    )


def apply() -> None:
    """Patch wandb: now if it is loaded, else right after it is imported.

    Importing the package has called this already. Calling it again, from any thread, changes
    nothing; it is the way back after :func:`revert`. Does nothing with ``WANDB_DDP_PATCH=0``.
    """
    _finder.late = False
    if not _enabled():
        return
    if _finder not in sys.meta_path:
        # In the place of another one: an import may be going through the list.
        ours = [at for at, finder in enumerate(sys.meta_path) if _is_ours(finder)]
        if ours:
            sys.meta_path[ours[0]] = _finder
        else:
            sys.meta_path.insert(0, _finder)
    if not sys.modules.keys().isdisjoint(("wandb", "torch", __name__ + "._registry")):
        from . import _registry

        _registry.apply()
    _finder.apply_spawn_setting()


def revert() -> None:
    """Take every patch off: wandb's classes and names, and torch's, are as they were found.

    Objects unpickled before keep working as far as wandb alone supports them.
    """
    sys.meta_path[:] = [finder for finder in sys.meta_path if not _is_ours(finder)]
    for name in ("._registry", ".forkserver.unchanged.start_processes"):
        if __name__ + name in sys.modules:
            sys.modules[__name__ + name].revert()


def status() -> "List[Status]":
    """Say what is patched and why: one :class:`Status` for each patch."""
    from . import _status

    return _status.status(enabled=_enabled(), late=_finder.late)


def spawn(
    fn: "Callable[..., object]",
    args: "Tuple[Any, ...]" = (),
    nprocs: int = 1,
    join: bool = True,
    daemon: bool = False,
    start_method: "Optional[str]" = None,
) -> "Any":
    """Start workers as torch.multiprocessing.spawn does, on Linux many times faster.

    Workers are forked from a process that has imported torch, wandb and the script once,
    and get this process's environment of now. Where it has a run, ``wandb.run``,
    ``wandb.config`` and ``wandb.log`` are live in each worker, without passing anything. If
    a worker fails, the others are ended, and the run will be marked failed (exit code 1).

    Args:
        fn: Called in each worker as ``fn(rank, *args)``; not a local function.
        args: What else it is called with.
        nprocs: The number of workers.
        join: Whether to wait until all have ended.
        daemon: Whether they are daemons: ended with this process, and childless.
        start_method: ``"spawn"``, ``"forkserver"`` or ``"fork"``. By default forkserver on
            Linux, else spawn; spawn with a RuntimeWarning where a fork would not do, for
            instance because importing the script initialises CUDA or starts threads.

    Returns:
        None, or with ``join=False`` torch's ProcessContext.

    Raises:
        ImportError: PyTorch is not installed.
        ValueError: ``fn``, or an argument, can't be sent to a new process.
        torch.multiprocessing.ProcessRaisedException: A worker raised; with its traceback.
        torch.multiprocessing.ProcessExitedException: A worker was killed, or ended with
            another exit status than 0.
    """
    from .forkserver import launch

    return launch.spawn(fn, args, nprocs, join, daemon, start_method, patched=_enabled())


def warm_up() -> None:
    """Start to import what :func:`spawn` needs, in a process in the background.

    Call it early, for instance before ``wandb.init()``: then the first :func:`spawn` need not
    wait. Does nothing where spawn() forks from no server.
    """
    if _enabled():
        from .forkserver import server

        server.warm_up()


def use_forkserver() -> None:
    """Let torch's own spawn start workers as fast as :func:`spawn` does, in unchanged code.

    From then on, ``torch.multiprocessing.spawn``, and ``start_processes`` with "spawn", as
    Lightning's ``ddp_spawn`` calls it, fork workers from a process that has imported the
    script. They see what they see with spawn: no run but what they are passed. Where a
    forkserver can't give that, they are spawned, and a RuntimeWarning says why.
    ``start_processes`` taken by name before stays as it is. The environment variable
    ``WANDB_DDP_PATCH_SPAWN=forkserver`` does the same. :func:`revert` ends it. Does nothing
    on macOS and Windows, in workers, and with ``WANDB_DDP_PATCH=0``.
    """
    _finder.forkserver = True
    apply()


def share(run: "Any" = None, host: "Optional[str]" = None, port: int = 0) -> "Optional[str]":
    """Open a run of this process to workers on other machines.

    From then on, what the run is pickled into holds an address and a token: whoever has it
    can use the run, and run code in this process, until the run is finished. Nothing that
    is not shared is open. The environment variable ``WANDB_DDP_PATCH_SHARE``, as ``1`` or
    ``HOST[:PORT]``, does the same for each run when it is first handed over.

    Args:
        run: The run; by default ``wandb.run``.
        host: The address or name by which workers reach this machine, where this process then
            listens; ``"0.0.0.0"`` or ``"::"`` for all. By default that of ``MASTER_ADDR``,
            ``SLURMD_NODENAME`` or the way out. One that is not this machine's own is handed out.
        port: The port; 0 for any that is free.

    Returns:
        Host and port, as workers are told; None for a disabled run, which needs none.

    Raises:
        OSError: It can't listen at that address, or there is none to be guessed.
        ValueError: That is no host or no port.
        wandb.errors.UsageError: There is no run, or it is finished, or another process's, or
            up to wandb 0.12, whose runs can't be shared.
    """
    from .handover import sharing

    return sharing.share(run, host, port)


def broadcast(run: "Any" = None, src: int = 0, group: "Any" = None) -> "Any":
    """Give each rank of a torch.distributed group the run of one of them.

    It is live there as ``wandb.run``, ``wandb.config`` and ``wandb.log``. It is shared, see
    :func:`share`, if the group spans several machines. Every rank of the group calls this.

    Args:
        run: The run, on rank ``src``; by default ``wandb.run``.
        src: The rank whose run it is, in the whole job.
        group: The group; by default all ranks.

    Returns:
        The run.

    Raises:
        wandb.errors.UsageError: Rank ``src`` has no run; on every rank.
        OSError: It can't be shared: see :func:`share`; on every rank.
    """
    from .handover import sharing

    return sharing.broadcast(run, src, group)


# Who has imported this, for doctor: the start-up file, for one.
_importer = sys._getframe(1)
while _importer.f_back and "importlib" in _importer.f_code.co_filename:
    _importer = _importer.f_back
_imported_by = _importer.f_globals.get("__name__", ""), _importer.f_code.co_filename
del _importer

if sys.version_info < (3, 8) and sys.stderr:  # which can read this file alone
    sys.stderr.write("wandb_ddp_patch does nothing here: it needs Python 3.8 or later\n")
apply()
_finder.late = "wandb" in sys.modules and __name__ in getattr(sys, "lazy_modules", ())
