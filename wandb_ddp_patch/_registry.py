"""Which patches there are; apply, revert and list them.

How a patch is installed, and when it is not, is in _patching.py.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from types import ModuleType
from typing import Dict, Iterable, List, Optional, Set, Tuple

from . import _import_hook
from ._patching import IncompatibleError, Patch, State, Undo
from .patches import config, disabled, interface, media, module, preinit, run, setup, summary

# Held while patches are applied or reverted. Nothing is imported under it that is not loaded
# already: a thread that waited for an import lock here, while the thread that has that one
# imports wandb and so waits for this, would wait for ever.
_lock = threading.RLock()
_warned: Set[str] = set()  # reasons that the user has been told

# In the order in which they are applied.
_MODULES = (config, summary, preinit, module, disabled, run, setup, interface, media)

# A wandb without any of these is none that we know: too old, or one that lies elsewhere.
_ESSENTIAL = {"wandb.sdk.wandb_config", "wandb.sdk.wandb_run", "wandb.sdk.wandb_summary"}


# Patches for another package, which wandb itself does not import, are not loaded before that
# package is. These are import statements and not names in a table, because PyInstaller and
# the like put only what they see imported into a program.
def _import_torch_patches() -> Tuple[ModuleType, ...]:
    from .patches import torch, watch

    return torch, watch


def _import_yaml_patches() -> Tuple[ModuleType, ...]:
    from .patches import yaml

    return (yaml,)


_OTHER_PACKAGES = {"torch": _import_torch_patches, "yaml": _import_yaml_patches}
_patches_by_package: Dict[str, Tuple[Patch, ...]] = {}  # of those that have been loaded


def patches() -> Tuple[Patch, ...]:
    """Return every patch there is, each with its state."""
    every = _load_patches(all_packages=True)
    missing = _missing_modules(every) if _is_imported("wandb") else set()
    with _lock:
        _settle_missing(every, missing)
    return every


def _load_patches(all_packages: bool = False) -> Tuple[Patch, ...]:
    """Return the patches for wandb, and for those other packages that have been imported.

    Args:
        all_packages: Whether to return those for other packages in any case.
    """
    for package, import_patches in _OTHER_PACKAGES.items():
        if package not in _patches_by_package and (all_packages or package in sys.modules):
            try:
                _patches_by_package[package] = _patches_in(import_patches())
            except ImportError as error:  # only a part of this package is installed
                _patches_by_package[package] = (_unloadable_patch(package, error),)
    others = (_patches_by_package.get(package, ()) for package in _OTHER_PACKAGES)
    return (*_patches_in(_MODULES), *(patch for each in others for patch in each))


def _patches_in(modules: Iterable[ModuleType]) -> Tuple[Patch, ...]:
    return tuple(patch for module in modules for patch in module.PATCHES)


def _unloadable_patch(package: str, error: ImportError) -> Patch:
    """Return what stands for the patches of a module that can't be imported: a skipped one."""

    def install(undo: List[Undo]) -> None:
        raise IncompatibleError(str(error))

    patch = Patch(
        modules=(package,),
        name="patches",
        install=install,
        is_fixed=lambda: False,
        why="",
        since="",
    )
    patch.apply()
    return patch


def apply(after: Optional[str] = None) -> None:
    """Apply every patch whose modules have been imported.

    Args:
        after: The module that has just been imported: patches that are settled, and do
            not depend on it, need not be checked again.
    """
    loaded = _load_patches()
    wandb_loaded = after == "wandb" or _is_imported("wandb")
    # Not before wandb is there, and not under the lock: to find a module, Python imports the
    # packages that it is in.
    missing = _missing_modules(loaded) if wandb_loaded else set()
    with _lock:
        for patch in loaded:
            settled = patch.state in (State.APPLIED, State.NOT_NEEDED)
            if settled and after and after not in patch.modules:
                continue
            if all(name == after or _is_imported(name) for name in patch.modules):
                patch.apply()
            elif patch.state is State.OFF:
                patch.state = State.WAITING
        _settle_missing(loaded, missing)
        skipped = [
            patch.reason
            for patch in loaded
            if patch.state is State.SKIPPED and patch.reason not in _warned
        ]
        if wandb_loaded:
            _warned.update(skipped)
    # The lock is free again: a warning may run code of the user's.
    if wandb_loaded and skipped:
        from . import _lifecycle  # late: importing wandb must stay quick

        if missing >= _ESSENTIAL:
            _lifecycle.warn(f"wandb {_version()} is not patched: this needs wandb 0.10.23 or later")
        else:
            why = "; ".join(skipped)
            _lifecycle.warn(
                f"wandb runs without these patches, which do not fit this release: {why}"
            )


def _version() -> str:
    return str(getattr(sys.modules["wandb"], "__version__", "of unknown version"))


def _missing_modules(patches: Tuple[Patch, ...]) -> Set[str]:
    """Return which of the modules that these patches wait for this wandb does not have."""
    needed = {name for patch in patches for name in patch.modules} - set(_OTHER_PACKAGES)
    return {name for name in needed if name not in sys.modules and not _is_importable(name)}


def _settle_missing(patches: Tuple[Patch, ...], missing: Set[str]) -> None:
    """Set the state of patches that would wait for ever: their module does not exist."""
    for patch in patches:
        if patch.state is State.WAITING and not missing.isdisjoint(patch.modules):
            patch.state = State.NOT_NEEDED if patch.optional else State.SKIPPED
            patch.reason = f"{patch.target} is not there: no such module"


def revert() -> None:
    """Revert every patch, the last one first."""
    every = _load_patches(all_packages=True)
    with _lock:
        for patch in reversed(every):
            patch.revert()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()  # another thread of the parent may hold it


# Not by _lifecycle.py: to read that takes an eighth of what this package may add to importing
# wandb, and most processes that import it have no run.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _is_imported(name: str) -> bool:
    """Return True if the code of a module has run to its end, and not only begun."""
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    # Python marks a module whose code is running by _initializing, but not one that is lazy or
    # being reloaded. To patch that one now would amend classes that it is about to replace.
    executing = getattr(spec, "_initializing", False) or name in _import_hook.executing
    return module is not None and not executing


def _is_importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except Exception:
        return False
