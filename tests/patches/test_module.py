"""The module wandb is copied and pickled as itself, and is a module as before."""

import copy
import importlib
import inspect
import pickle
import types

import pytest
import wandb
from forks import WANDB

import wandb_ddp_patch

# One worker has the interpreters that all of them fork.
pytestmark = pytest.mark.xdist_group("patches")


def test_it_is_a_module_as_before():
    assert isinstance(wandb, types.ModuleType)
    assert inspect.ismodule(wandb)
    assert type(wandb).__name__ == "module"
    assert repr(wandb).startswith("<module 'wandb' from ")
    assert inspect.getsourcefile(wandb) == wandb.__file__
    assert "init" in dir(wandb)
    assert pickle.loads(pickle.dumps(wandb.init)) is wandb.init
    assert not hasattr(wandb, "no_such_name")
    wandb.a_name_of_ours = 1
    assert vars(wandb).pop("a_name_of_ours") == 1


def test_it_is_copied_after_a_reload(forked_from):
    code = """
        import copy, importlib, pickle, wandb, wandb_ddp_patch
        assert importlib.reload(wandb) is wandb
        assert copy.copy(wandb) is wandb is pickle.loads(pickle.dumps(wandb))
        print("reloaded")
    """
    assert forked_from(code, after=WANDB) == "reloaded\n"


def test_its_payload_names_nothing_of_ours(forked_from):
    data = pickle.dumps(wandb)
    assert b"ddp_patch" not in data
    code = f"import pickle, wandb; assert pickle.loads({data!r}) is wandb; print('same')"
    assert forked_from(code, after=WANDB) == "same\n"


def test_revert_takes_the_class_off_and_leaves_that_of_others():
    importlib.import_module("wandb_ddp_patch")
    ours = type(wandb)
    wandb_ddp_patch.revert()
    try:
        assert type(wandb) is types.ModuleType
        with pytest.raises(TypeError):
            copy.copy(wandb)
        wandb_ddp_patch.apply()
        assert type(wandb) is not ours
        theirs = type("Theirs", (type(wandb),), {})
        wandb.__class__ = theirs
        wandb_ddp_patch.revert()
        assert type(wandb) is theirs
    finally:
        wandb.__class__ = types.ModuleType
        wandb_ddp_patch.apply()
