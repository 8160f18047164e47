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
@pytest.mark.parametrize("name", ("config", "summary", "log", "watch", "save"))
def test_pickle(name, protocol):
    obj = getattr(wandb, name)

    assert pickle.loads(pickle.dumps(obj, protocol)) is obj
    assert copy.deepcopy(obj) is obj


@pytest.mark.parametrize("name", ("config", "log"))
def test_unpickled_after_init(name, monkeypatch):
    pickled = pickle.dumps(getattr(wandb, name))
    current = object()
    monkeypatch.setattr(wandb, name, current)

    assert pickle.loads(pickled) is current


def test_callable_is_function():
    log = preinit.PreInitCallable("wandb.log", wandb.Run.log)

    assert inspect.isfunction(log)
    assert log.__name__ == "wandb.log"
    assert log.__doc__ == wandb.Run.log.__doc__
    with pytest.raises(wandb.Error, match="before wandb.log()"):
        log({})
