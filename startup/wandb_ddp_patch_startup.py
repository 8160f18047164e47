"""Runs at the start of every interpreter: has wandb_ddp_patch imported with wandb.

A .pth file imports this module. It stands beside the package, not in it,
because it must be small, and do no harm where the package is gone. The module
itself is the finder in ``sys.meta_path``: a class would cost more.

There is no .start file (https://peps.python.org/pep-0829/) as long as Python
runs the import lines of .pth files, up to 3.17: where there is any, 3.15 imports
pkgutil, and each start takes 1.8 times as long.
"""

import sys


def find_spec(name, path=None, target=None):
    if (name != "wandb" and name != "torch") or "wandb_ddp_patch" in sys.modules:
        return None
    finder = patch()
    return finder.find_spec(name, path, target) if finder in sys.meta_path else None


def patch():
    import os  # not at every start

    if os.environ.get("WANDB_DDP_PATCH") == "0":
        return None
    try:
        from wandb_ddp_patch import _finder  # it takes our place in sys.meta_path
    except Exception:
        return None
    return _finder


def install():
    this = sys.modules[__name__]
    if "wandb_ddp_patch" not in sys.modules and this not in sys.meta_path:
        sys.meta_path.insert(0, this)
        if "wandb" in sys.modules or "torch" in sys.modules:
            patch()  # another start-up file has imported it before this one


install()
