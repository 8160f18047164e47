"""Applying and reverting in one process: what status() says, and what is left of a class."""

import pickle
import sys

import pytest
import wandb

import wandb_ddp_patch


def amended():
    """The classes and modules that patches amend."""
    from wandb.sdk import wandb_config, wandb_run, wandb_setup, wandb_summary
    from wandb.sdk.lib import disabled, preinit

    return {
        "Config": wandb_config.Config,
        "SummaryDict": wandb_summary.SummaryDict,
        "Summary": wandb_summary.Summary,
        "SummarySubDict": wandb_summary.SummarySubDict,
        "SummaryDisabled": disabled.SummaryDisabled,
        "Run": wandb_run.Run,
        "setup": wandb_setup._WandbSetup,
        "PreInitObject": preinit.PreInitObject,
        "preinit": preinit,
        "wandb": wandb,
    }


@pytest.fixture
def reverted():
    wandb_ddp_patch.revert()
    yield
    wandb_ddp_patch.apply()


def states():
    return {status.target.rpartition(".")[2]: status.state for status in wandb_ddp_patch.status()}


def test_status_says_what_is_patched_and_why():
    torch, found = "torch" in sys.modules, states()
    # "applied" where torch has come before wandb.
    assert (found.pop("serialization without wandb") != "waiting for import") == torch
    assert found == {
        "Config": "applied",
        "Summary": "applied",
        "SummaryDisabled": "applied",
        "PreInitCallable": "applied",
        "RunDisabled": "not needed",
        "Run": "applied",
        "teardown": "applied",
        "InterfaceBase": "not needed",
        "__class__": "applied",
        "Api": "not needed",
        "WandbStoragePolicy": "applied",
        "Artifact": "applied",
        "TorchHistory": "not needed",  # of the module that has it in old releases
        "serialization": "applied" if torch else "waiting for import",
        "SafeRepresenter": "applied" if "yaml" in sys.modules else "waiting for import",
    }
    for status in wandb_ddp_patch.status():
        assert status.why
        assert status.since[0].isdigit()


def test_revert_leaves_each_class_member_for_member_and_apply_comes_back(reverted):
    before = {name: dict(vars(owner)) for name, owner in amended().items()}
    for _ in range(3):
        wandb_ddp_patch.apply()
        patched = {name: dict(vars(owner)) for name, owner in amended().items()}
        assert all(patched[name] != before[name] for name in before)
        wandb_ddp_patch.apply()  # again: nothing changes
        for name, owner in amended().items():
            assert {k: id(v) for k, v in vars(owner).items()} == {
                k: id(v) for k, v in patched[name].items()
            }
        wandb_ddp_patch.revert()
        for name, owner in amended().items():
            assert {k: id(v) for k, v in vars(owner).items()} == {
                k: id(v) for k, v in before[name].items()
            }
        assert set(states().values()) <= {"off", "waiting for import"}


def test_never_two_finders():
    before = list(sys.meta_path)
    sys.modules.pop("wandb_ddp_patch")
    try:
        import wandb_ddp_patch as second
    finally:
        sys.modules["wandb_ddp_patch"] = wandb_ddp_patch
    assert second is not wandb_ddp_patch
    assert len(sys.meta_path) == len(before)
    wandb_ddp_patch.apply()
    assert sys.meta_path == before


def test_pickle_of_reverted_config_is_upstreams(reverted):
    with pytest.raises(RecursionError):
        pickle.loads(pickle.dumps(wandb.Config()))
