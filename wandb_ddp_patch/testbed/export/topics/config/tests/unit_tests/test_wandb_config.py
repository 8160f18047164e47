import copy
import multiprocessing
import pickle

import pytest
import wandb

_CONFIG_DATA = {"lr": 0.1, "nested": {"depth": 1}, "swept": 1}


def _config_of_a_run():
    config = wandb.Config()
    config._set_settings(wandb.Settings(api_key="0123456789" * 4))
    config._set_callback(lambda key=None, val=None, data=None: None)
    config.update(copy.deepcopy(_CONFIG_DATA))
    config.update_locked({"swept": 1}, user="sweep")
    return config


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_config_pickle(protocol):
    config = _config_of_a_run()

    unpickled = pickle.loads(pickle.dumps(config, protocol))

    assert type(unpickled) is type(config)
    assert dict(unpickled) == _CONFIG_DATA
    unpickled["swept"] = 2  # ignored: still locked
    assert unpickled["swept"] == 1


def test_config_pickle_has_no_secrets():
    assert b"0123456789" not in pickle.dumps(_config_of_a_run())


@pytest.mark.parametrize("copy_fn", (copy.copy, copy.deepcopy))
def test_config_copy(copy_fn):
    config = _config_of_a_run()

    copied = copy_fn(config)
    copied.update({"lr": 0.2, "new": 1}, allow_val_change=True)

    assert copied["new"] == 1
    assert dict(config) == _CONFIG_DATA


def test_config_deepcopy_nested():
    config = _config_of_a_run()

    copy.deepcopy(config)["nested"]["depth"] = 2

    assert config["nested"]["depth"] == 1


def test_config_without_init_has_no_attributes():
    assert not hasattr(wandb.Config.__new__(wandb.Config), "lr")


def _read_lr(config, queue):
    queue.put(config.lr)


def test_config_in_spawned_process():
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_read_lr, args=(_config_of_a_run(), queue))

    process.start()
    process.join(timeout=50)

    assert process.exitcode == 0
    assert queue.get(timeout=5) == 0.1
