"""Call a function right after one of a few modules has been imported.

One finder stands first in ``sys.meta_path``. For a module that it does not
watch it costs one dictionary look-up. For one that it does, it asks the
finders behind it and wraps the loader that they give, so that the function
runs when the module's code has; before that code runs, the real loader is
back in both places where Python shows it.

Nothing here holds a lock, and nothing but sys is imported: this file runs at
the start of every interpreter.
"""

import sys

# wandb itself, each of its modules that holds a class which we amend (a reload
# makes a new class), and torch, whose list of safe globals we extend.
WATCHED = frozenset(
    (
        "torch",
        "wandb",
        "wandb.sdk.interface.interface",
        "wandb.sdk.lib.disabled",
        "wandb.sdk.lib.preinit",
        "wandb.sdk.wandb_config",
        "wandb.sdk.wandb_run",
        "wandb.sdk.wandb_summary",
    )
)


class _Loader:
    """The real loader, but for what happens after the module's code has run."""

    def __init__(self, loader, callback):
        self._loader = loader
        self._callback = callback

    def __getattr__(self, name):
        if name == "_loader":  # copy and pickle make instances without it
            raise AttributeError(name)
        return getattr(self._loader, name)

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        try:
            self._callback(module.__name__)
        except Exception as error:
            # The user's import must not fail because of us.
            sys.stderr.write("wandb_ddp_patch: not applied: %r\n" % (error,))


class Finder:
    """Finds watched modules, through the finders that come after it."""

    def __init__(self, callback):
        self._callback = callback

    def find_spec(self, name, path=None, target=None):
        if name not in WATCHED:
            return None
        finders = tuple(sys.meta_path)
        # Only those behind: another hook that asks everybody, as we do, would
        # else meet us again.
        behind = finders[finders.index(self) + 1 :] if self in finders else ()
        for finder in behind:
            find_spec = getattr(finder, "find_spec", None)
            spec = find_spec(name, path, target) if find_spec else None
            if spec is not None:
                # A loader without exec_module (zipimport before Python 3.10)
                # is left alone: apply() after the import still works.
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader, self._callback)
                return spec
        return None

    def invalidate_caches(self):
        pass


def install(callback):
    """Put our finder first, once: any copy of it that is there stays alone."""
    if not any(_is_ours(finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder(callback))


def uninstall():
    """Take our finder away."""
    for finder in [f for f in sys.meta_path if _is_ours(f)]:
        sys.meta_path.remove(finder)


def _is_ours(finder):
    # By name, because a virtual environment runs a .pth file twice and a test
    # may import this package twice.
    kind = type(finder)
    return kind.__module__ == __name__ and kind.__name__ == "Finder"
