"""Applying and reverting in one process: what status() says, and what is left of a class."""

import pickle
import sys
from types import ModuleType

import pytest
import wandb

import wandb_ddp_patch
from wandb_ddp_patch import _registry


def amended():
    """The classes and modules of wandb's that patches amend."""
    from wandb.sdk import wandb_config, wandb_run, wandb_setup, wandb_summary
    from wandb.sdk.artifacts import artifact
    from wandb.sdk.artifacts.storage_policies import wandb_storage_policy
    from wandb.sdk.lib import disabled, preinit

    # Loaded by wandb.watch(), which another test of this process may have called.
    of_torch = (
        sys.modules.get("wandb.integration.torch.wandb_torch") if "torch" in sys.modules else None
    )
    names = ("TorchHistory", "TorchGraph") if of_torch else ()
    return {
        **{name: getattr(of_torch, name) for name in names},
        "Artifact": artifact.Artifact,
        "WandbStoragePolicy": wandb_storage_policy.WandbStoragePolicy,
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


def loaded_of_wandb():
    """Every class and module of wandb's that this process has loaded."""
    modules = [
        module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == "wandb" and isinstance(module, ModuleType)
    ]
    values = [value for module in modules for value in list(vars(module).values())]
    # Not isinstance(), which asks for __class__: that has lazy modules imported.
    classes = {value for value in values if issubclass(type(value), type)}
    return [*modules, *(cls for cls in classes if cls.__module__.partition(".")[0] == "wandb")]


def members(owner):
    return {name: id(value) for name, value in vars(owner).items()}


def test_amended_has_all_that_patches_change(reverted):
    owners = loaded_of_wandb()
    before = [members(owner) for owner in owners]
    wandb_ddp_patch.apply()
    changed = {owner for owner, was in zip(owners, before) if members(owner) != was}
    assert changed == set(amended().values())


def test_each_module_with_a_patch_is_watched():
    """If one is not, its patch is applied only by accident: when another module is imported."""
    needed = {name for patch in _registry.patches() for name in patch.modules}
    others = {"billiard.process", "multiprocess.process", "torch.multiprocessing.spawn"}
    assert wandb_ddp_patch._finder.watched == needed | others


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
