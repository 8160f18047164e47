import copy
import inspect
import pickle

import pytest
import wandb
from wandb.sdk.lib import module, preinit


@pytest.fixture(autouse=True)
def before_init():
    module.unset_globals()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ("config", "summary"))
def test_pickle_object(name, protocol):
    obj = getattr(wandb, name)

    assert pickle.loads(pickle.dumps(obj, protocol)) is obj
    assert copy.deepcopy(obj) is obj


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ("log", "watch", "save"))
def test_pickle_callable(name, protocol):
    obj = getattr(wandb, name)

    assert pickle.loads(pickle.dumps(obj, protocol)) is obj
    assert copy.deepcopy(obj) is obj


def test_object_is_current_global(monkeypatch):
    config = wandb.config
    pickled = pickle.dumps(config)
    monkeypatch.setattr(wandb, "config", current := object())

    assert pickle.loads(pickled) is current
    assert pickle.loads(pickle.dumps(config)) is current


def test_callable_is_current_global(monkeypatch):
    log = wandb.log
    monkeypatch.setattr(wandb, "log", current := object())

    # Pickled after `wandb.init()`, as an argument of a process is.
    assert pickle.loads(pickle.dumps(log)) is current
    assert copy.copy(log) is current


def test_callable_looks_like_function():
    log = preinit.PreInitCallable("wandb.log", wandb.Run.log)

    assert callable(log)
    assert log.__name__ == "wandb.log"
    assert log.__doc__ == wandb.Run.log.__doc__
    assert inspect.signature(log) == inspect.signature(wandb.Run.log)
    with pytest.raises(wandb.Error, match="before wandb.log()"):
        log({})
