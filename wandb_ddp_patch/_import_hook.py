"""Call somebody right after one of a few modules has been imported.

The finder in __init__.py stands first in ``sys.meta_path``. For a module that
it does not watch it costs one dictionary look-up. For one that it does, it asks
the finders behind it and wraps the loader that they give, so that we are called
when the module's code has run; before that code runs, the real loader is back
in both places where Python shows it.

Nothing here holds a lock, and nothing but sys is imported.
"""

import sys

# Watched modules whose code is running.
executing: "set[str]" = set()

_told: "list[Exception]" = []


class _Loader:
    """The real loader, but for what happens after the module's code has run."""

    def __init__(self, loader, imported):
        self._loader, self._imported = loader, imported

    def __getattr__(self, name):
        if name in ("_loader", "_imported"):  # copy and pickle make instances without
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        module.__loader__ = module.__spec__.loader = self._loader
        executing.add(module.__name__)
        try:
            self._loader.exec_module(module)
        finally:
            executing.discard(module.__name__)
        try:
            self._imported(module.__name__)
        except Exception as error:
            # The user's import must not fail because of us.
            _told.append(error)
            try:
                if len(_told) == 1:
                    sys.stderr.write("wandb_ddp_patch: not applied: %r\n" % (error,))
            except Exception:
                pass  # there may be no stderr


def find_spec_behind(this, name, path, target):
    """Find a watched module through the finders that come after this one.

    Once its code has run, ``this.on_imported`` is called with its name.
    """
    finders = tuple(sys.meta_path)
    # Only those behind: another hook that asks everybody, as we do, would
    # else meet us again.
    behind = finders[finders.index(this) + 1 :] if this in finders else ()
    for finder in behind:
        find_spec = getattr(finder, "find_spec", None)
        spec = find_spec(name, path, target) if find_spec else None
        if spec is not None:
            # A loader without exec_module (zipimport before Python 3.10)
            # is left alone: apply() after the import still works.
            if hasattr(spec.loader, "exec_module"):
                spec.loader = _Loader(spec.loader, this.on_imported)
            return spec
    return None
