import copy
import multiprocessing
import pickle

import pytest
import wandb
from wandb.sdk import wandb_run

_CONFIG_DATA = {"lr": 0.1, "nested": {"depth": 1}, "swept": 1}


def _get_run_config():
    run = wandb_run.Run(
        settings=wandb.Settings(api_key="0123456789" * 4),
        config=copy.deepcopy(_CONFIG_DATA),
        sweep_config={"swept": 1},
    )
    return run.config


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_config_pickle(protocol):
    config = _get_run_config()

    unpickled = pickle.loads(pickle.dumps(config, protocol))

    assert type(unpickled) is type(config)
    assert dict(unpickled) == _CONFIG_DATA
    unpickled["swept"] = 2  # ignored: still locked
    assert unpickled["swept"] == 1


def test_config_pickle_has_no_secrets():
    assert b"0123456789" not in pickle.dumps(_get_run_config())


def test_config_pickle_has_no_telemetry():
    assert b"_wandb" not in pickle.dumps(_get_run_config())


@pytest.mark.parametrize("copy_fn", (copy.copy, copy.deepcopy))
def test_config_copy(copy_fn):
    config = _get_run_config()

    copied = copy_fn(config)
    copied.update({"lr": 0.2, "new": 1}, allow_val_change=True)

    assert copied["new"] == 1
    assert dict(config.items()) == _CONFIG_DATA


def test_config_deepcopy_nested():
    config = _get_run_config()

    copy.deepcopy(config)["nested"]["depth"] = 2

    assert config["nested"]["depth"] == 1


def test_config_without_init_has_no_attributes():
    assert not hasattr(wandb.Config.__new__(wandb.Config), "lr")


def _read_lr(config, queue):
    queue.put(config.lr)


def test_config_in_spawned_process(capfd):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_read_lr, args=(_get_run_config(), queue))

    process.start()
    process.join(timeout=50)

    assert process.exitcode == 0, capfd.readouterr().err
    assert queue.get(timeout=5) == 0.1
