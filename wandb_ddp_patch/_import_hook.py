"""A post-import hook: call a function right after a watched module has been imported.

The finder in __init__.py stands first in ``sys.meta_path``. For a module that it does not
watch, it costs one look-up in a set. For a watched one, it asks the finders behind it and
wraps the loader that they return, so that the hook is called when the module's code has run.
Before that code runs, the real loader is back in both places where Python shows it, the
module's ``__loader__`` and its spec: inspect, importlib.resources and others ask those.

Nothing here holds a lock, since Python holds the module's import lock meanwhile; and nothing
but sys is imported, since this runs in every interpreter that imports a watched module.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any, Optional, Protocol, Sequence

    from _typeshed.importlib import MetaPathFinderProtocol

    class Finder(MetaPathFinderProtocol, Protocol):
        def on_importing(self, name: str) -> None: ...
        def on_imported(self, name: str) -> None: ...


# Names of watched modules whose code is running.
executing: "set[str]" = set()

_errors: "list[Exception]" = []  # kept for whoever debugs this: only the first is printed


class _Loader:
    """A proxy of the real loader, which calls a finder before and after the module's code runs."""

    def __init__(self, loader: "Loader", finder: "Finder") -> None:
        self._loader, self._finder = loader, finder

    def __getattr__(self, name: str) -> "Any":
        # copy and pickle make instances that have neither yet, and ask them for other names:
        # to look up _loader here would recurse.
        if name in ("_loader", "_finder"):
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec: "ModuleSpec") -> "Optional[ModuleType]":
        return self._loader.create_module(spec)

    def exec_module(self, module: "ModuleType") -> None:
        module.__loader__ = module.__spec__.loader = self._loader  # type: ignore[union-attr]
        try:
            self._finder.on_importing(module.__name__)
        except Exception as error:
            _errors.append(error)  # it was to save time, and nothing else
        executing.add(module.__name__)
        try:
            self._loader.exec_module(module)
        finally:
            executing.discard(module.__name__)
        try:
            self._finder.on_imported(module.__name__)
        except Exception as error:
            # The user's import must not fail because of us.
            _errors.append(error)
            try:
                if len(_errors) == 1:
                    sys.stderr.write("wandb_ddp_patch: wandb is not patched: %r\n" % (error,))
            except Exception:
                pass  # there may be no stderr


def find_spec_behind(
    this: "Finder",
    name: str,
    path: "Optional[Sequence[str]]",
    target: "Optional[ModuleType]",
) -> "Optional[ModuleSpec]":
    """Return the spec of a watched module from the finders that come after this one, or None.

    Args:
        this: The finder that was asked. With the module's name, its ``on_importing`` is called
            before the module's code runs, and its ``on_imported`` after that.
        name: The module's name.
        path: Where to look, as ``find_spec`` gets it.
        target: The module that is being reloaded, as ``find_spec`` gets it.
    """
    finders = tuple(sys.meta_path)
    # Only those behind this one: another import hook that asks all finders in turn, as this
    # one does, would be asked by us and ask us again, and so on.
    behind = finders[finders.index(this) + 1 :] if this in finders else ()
    for finder in behind:
        find_spec = getattr(finder, "find_spec", None)
        spec: Optional[ModuleSpec] = find_spec(name, path, target) if find_spec else None
        if spec is not None:
            # A loader without exec_module (zipimport before Python 3.10) is left alone: Python
            # would take a wrapped one for a loader that has it. apply() still works afterwards.
            loader = spec.loader
            if loader is not None and hasattr(loader, "exec_module"):
                spec.loader = _Loader(loader, this)  # type: ignore[assignment]
            return spec
    return None
