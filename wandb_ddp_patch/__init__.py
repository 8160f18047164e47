"""Make Weights & Biases objects survive multi-process training.

Importing this package applies its patches: ``wandb.config``, the run, the summary and
everything that holds them can then be passed to worker processes, copied and pickled. It
began with https://github.com/wandb/wandb/issues/2007.

The environment variable ``WANDB_DDP_PATCH=0`` turns it off. Importing it imports nothing that
a bare interpreter has not loaded: the rest of the package is imported once wandb or torch is.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any, Callable, List, Optional, Sequence, Tuple

    from ._status import Status

__all__ = ["__version__", "apply", "broadcast", "revert", "share", "spawn", "status"]
__all__ += ["use_forkserver", "warm_up"]
__version__ = "1.0.0rc1"


def _enabled() -> bool:
    return sys.version_info >= (3, 8) and os.environ.get("WANDB_DDP_PATCH") != "0"


class _Finder:
    """Stands first in ``sys.meta_path``, and lets _import_hook.py find what it watches."""

    # wandb itself; each of its modules that has a class which a patch amends (a reload makes a
    # new class); torch, for its safe globals and its spawn; yaml, for its representers; and
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
    on_search: "Optional[Callable[[str], None]]" = None  # called with each name that is looked for
    late = False  # whether a lazy import of this package ran after wandb's, and apply() did not

    def find_spec(
        self,
        name: str,
        path: "Optional[Sequence[str]]" = None,
        target: "Optional[ModuleType]" = None,
    ) -> "Optional[ModuleSpec]":
        if self.on_search is not None:
            self.on_search(name)
        if name in self.watched:
            try:
                from ._import_hook import find_spec_behind
            except Exception:
                return None  # only a part of this package is installed
            return find_spec_behind(self, name, path, target)
        return None

    def on_importing(self, name: str) -> None:
        if name == "torch":
            self.get_ready()

    def on_imported(self, name: str) -> None:
        if name == "torch.multiprocessing.spawn":
            self.apply_spawn_setting()
        elif name.endswith(".process"):
            if __name__ + ".handover.parent_run" in sys.modules:
                sys.modules[__name__ + ".handover.parent_run"].offer()
        # torch alone is reason enough: torch.load() may find a config in a checkpoint before
        # anybody has imported wandb. yaml alone is none.
        elif name == "torch" or "wandb" in sys.modules:
            # Late: it needs modules that only wandb or torch brings into the process.
            from . import _registry

            _registry.apply(after=name)

    def apply_spawn_setting(self) -> None:
        asked = None if self.forkserver else os.environ.get("WANDB_DDP_PATCH_SPAWN") or "spawn"
        if asked != "spawn" and "torch.multiprocessing.spawn" in sys.modules:
            from .forkserver.unchanged import start_processes

            start_processes.apply(asked)

    def get_ready(self) -> None:
        """Begin to import what workers need, where it is known that there will be some."""
        asked = self.forkserver or os.environ.get("WANDB_DDP_PATCH_SPAWN") == "forkserver"
        from .forkserver import early_signs

        if (asked or early_signs.script_names_spawn()) and early_signs.may_prepare():
            from .forkserver import early_start

            early_start.begin()


_finder = _Finder()


class _ParentRun(bytes):
    """The payload of handover/parent_run.py, by which a worker learns of its parent's run.

    It has a class of this module, so that loading it imports this package: joblib's workers
    import neither the script nor anything else that would.
    """


def _is_ours(finder: object) -> bool:
    # By name, not by class: the package may have been imported twice, as after a reload or in a
    # test. The start-up module is a finder as well.
    cls = type(finder)
    return (cls.__module__, cls.__name__) == (__name__, "_Finder") or (
        finder is sys.modules.get(__name__ + "_startup")
    )


def apply() -> None:
    """Patch wandb: now if it has been imported, otherwise right after it is imported.

    Importing this package has called this already. Calling it again, from any thread, changes
    nothing, except after :func:`revert`, whose effect it undoes. It does nothing with
    ``WANDB_DDP_PATCH=0``, and never raises: a patch that does not fit this wandb is skipped
    with a RuntimeWarning.
    """
    _finder.late = False
    if not _enabled():
        return
    if _finder not in sys.meta_path:
        # In place of one of ours, if there is one: another thread's import may be iterating over
        # the list, and would skip a finder if the list got shorter.
        ours = [at for at, finder in enumerate(sys.meta_path) if _is_ours(finder)]
        if ours:
            sys.meta_path[ours[0]] = _finder
        else:
            sys.meta_path.insert(0, _finder)
    if not sys.modules.keys().isdisjoint(("wandb", "torch", __name__ + "._registry")):
        from . import _registry

        _registry.apply()
    if "torch" in sys.modules:
        _finder.get_ready()
    _finder.apply_spawn_setting()


def revert() -> None:
    """Revert every patch: the classes and names of wandb and torch are what they were before.

    Objects that were unpickled before go on working as far as wandb alone supports them.
    :func:`apply` applies the patches again.
    """
    sys.meta_path[:] = [finder for finder in sys.meta_path if not _is_ours(finder)]
    for name in ("._registry", ".forkserver.unchanged.start_processes"):
        if __name__ + name in sys.modules:
            sys.modules[__name__ + name].revert()
    if __name__ + ".forkserver.early_start" in sys.modules:
        sys.modules[__name__ + ".forkserver.early_start"].discard()


def status() -> "List[Status]":
    """Return what is patched and why.

    Returns:
        One ``Status`` per patch, with the strings ``target``, ``state``, ``why`` and ``since``.
        The state is ``"applied"``, ``"waiting for import"``, ``"not needed"`` (wandb does it by
        itself), ``"skipped"`` (it does not fit this wandb; ``why`` says how) or ``"off"``.
    """
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
    """Start workers as torch.multiprocessing.spawn does, but many times faster on Linux.

    Workers are forked from a process that has imported torch, wandb and the script once, and
    get the environment that this process has now. If this process has a run, ``wandb.run``,
    ``wandb.config`` and ``wandb.log`` are live in each worker without being passed. If a
    worker fails, the others are terminated, and the run will be marked as failed (exit code 1).

    Args:
        fn: Called in each worker as ``fn(rank, *args)``. It can't be a local function.
        args: Its other arguments.
        nprocs: The number of workers.
        join: Whether to wait until all workers have ended.
        daemon: Whether the workers are daemons, which end with this process and can't have
            child processes of their own.
        start_method: ``"spawn"``, ``"forkserver"`` or ``"fork"``. The default is forkserver on
            Linux and spawn elsewhere. On Linux it is also spawn, with a RuntimeWarning, where
            forking would not be safe, for instance because importing the script initialises
            CUDA or starts threads.

    Returns:
        None, or torch's ProcessContext if ``join`` is False.

    Raises:
        ImportError: PyTorch is not installed.
        ValueError: ``fn`` or an argument can't be sent to a new process.
        torch.multiprocessing.ProcessRaisedException: A worker raised; it has the traceback.
        torch.multiprocessing.ProcessExitedException: A worker was killed, or ended with an
            exit status other than 0.
    """
    from .forkserver import launch

    return launch.spawn(fn, args, nprocs, join, daemon, start_method, patched=_enabled())


def warm_up() -> None:
    """Begin to import what :func:`spawn` needs, in a process in the background.

    Called early, for instance before ``wandb.init()``, it saves the first :func:`spawn` the
    wait. It does nothing where :func:`spawn` does not use a forkserver.
    """
    if _enabled():
        from .forkserver import server

        server.warm_up()


def use_forkserver() -> None:
    """Let torch's own spawn start workers as fast as :func:`spawn` does, in unchanged code.

    From then on, ``torch.multiprocessing.spawn``, and ``start_processes`` with "spawn", which
    Lightning's ``ddp_spawn`` calls, fork workers from a process that has imported the script.
    The workers see what spawned ones would see; in particular, they have no run but what they
    are passed. Where a forkserver can't give them that, they are spawned, and a RuntimeWarning
    says why. A ``start_processes`` that was imported by name before this call is not affected.

    The environment variable ``WANDB_DDP_PATCH_SPAWN=forkserver`` does the same. :func:`revert`
    ends it. It does nothing on macOS and Windows, in workers, and with ``WANDB_DDP_PATCH=0``.
    """
    _finder.forkserver = True
    apply()


def share(run: "Any" = None, host: "Optional[str]" = None, port: int = 0) -> "Optional[str]":
    """Open a run of this process to workers on other machines.

    From then on, this process listens for workers, and a pickle of the run also holds an
    address and a token. Whoever has that token can write to the run until it is finished: log
    to it, change its config, summary and name, and add files and artifacts. It opens this one
    run and nothing else: no other run, no other file of this machine, and not this process,
    which never unpickles or runs what workers send. From other machines, a run that is not
    shared can't be reached.

    The environment variable ``WANDB_DDP_PATCH_SHARE``, as ``1`` or ``HOST[:PORT]``, does the
    same for each run when it is first pickled.

    Args:
        run: The run; by default ``wandb.run``.
        host: The address or name by which workers reach this machine, and where this process
            listens; ``"0.0.0.0"`` or ``"::"`` listens everywhere. The default is this machine's
            address on the route to ``MASTER_ADDR``, to ``SLURMD_NODENAME`` or out of its network.
            A name or address that is not this machine's own is told to workers as it is.
        port: The port; 0 for any that is free.

    Returns:
        The host and port that workers are told, as ``HOST:PORT``; None for a disabled run,
        which needs none.

    Raises:
        ImportError: wandb is not installed.
        OSError: It can't listen at that address, or found no address to listen at.
        ValueError: ``host`` or ``port`` is not valid.
        wandb.errors.UsageError: There is no run, it is finished, or it is another process's;
            or this is wandb 0.12 or earlier, whose runs can't be shared.
    """
    from .handover import sharing

    return sharing.share(run, host, port)


def broadcast(run: "Any" = None, src: int = 0, group: "Any" = None) -> "Any":
    """Send the run of one rank of a torch.distributed group to all the others.

    On each of them it is live as ``wandb.run``, ``wandb.config`` and ``wandb.log``. If the
    group spans several machines, the run is shared, see :func:`share`. Every rank of the group
    must call this.

    Args:
        run: The run, on rank ``src``; by default ``wandb.run``. Ignored on other ranks.
        src: The global rank of the process that owns the run.
        group: The process group; by default all ranks.

    Returns:
        The run, on every rank.

    Raises:
        ImportError: wandb, or a PyTorch with torch.distributed, is not installed.
        wandb.errors.UsageError: Rank ``src`` has no run. Raised on every rank.
        OSError: The run can't be shared, see :func:`share`. Raised on every rank.
    """
    from .handover import sharing

    return sharing.broadcast(run, src, group)


# Who has imported this, for doctor: the start-up file, or a script.
_importer = sys._getframe(1)
while _importer.f_back and "importlib" in _importer.f_code.co_filename:
    _importer = _importer.f_back
_imported_by = _importer.f_globals.get("__name__", ""), _importer.f_code.co_filename
del _importer

if sys.version_info < (3, 8) and sys.stderr:  # such a Python can read no file but this one
    sys.stderr.write("wandb_ddp_patch does nothing here: it needs Python 3.8 or later\n")
apply()
_finder.late = "wandb" in sys.modules and __name__ in getattr(sys, "lazy_modules", ())
