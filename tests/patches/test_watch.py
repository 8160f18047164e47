"""Models under wandb.watch(): the original goes on logging, and its copies are torch's own."""

import copy
import copyreg
import pickle
import pickletools
import warnings
from collections import OrderedDict
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
import torch.multiprocessing  # it teaches ForkingPickler tensors
import wandb

import wandb_ddp_patch
from wandb_ddp_patch import runfile

# A script, because it also runs on other releases.
ROWS = """
import copy, pickle, warnings
warnings.simplefilter("ignore")
import torch, wandb, wandb_ddp_patch

run = wandb.init()
model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))

def train(model):
    model(torch.ones(1, 2)).sum().backward()
    run.log({"row": 1})

wandb.watch(model, log="all", log_freq=1, log_graph=True)
train(model)
twin = pickle.loads(pickle.dumps(model))
others = copy.deepcopy(model), copy.copy(model)
train(model)
train(twin)
wandb.unwatch(model)
train(model)
wandb.watch(twin, log="all", log_freq=1, log_graph=True, idx=7)
train(twin)
"""


@pytest.mark.parametrize("version", [None, "0.12.21", "0.16.6"])
def test_the_original_goes_on_logging_until_it_is_unwatched(tmp_path, fresh, release, version):
    python = {"python": release(version)} if version else {}
    fresh(ROWS, quiet=False, **python)
    # Read after the process's end: finish() comes back before the file is whole.
    (file,) = runfile.find(str(tmp_path))
    rows = runfile.history(file)
    kinds = "row", "gradients/0.", "parameters/0.", "gradients/graph_7", "parameters/graph_7"
    counts = [sum(any(key.startswith(kind) for key in row) for row in rows) for kind in kinds]
    assert counts == [5, 2, 2, 1, 1]


class Model(torch.nn.Module):
    """With a hook of its own, on the module that wandb puts one on."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 1)
        self.handle = self.register_forward_hook(count)

    def forward(self, x):
        return self.linear(x)


calls = []


def count(module, args, output):
    calls.append(1)


@pytest.fixture
def model(run):
    model = Model()
    run.watch(model, log="all", log_freq=1, log_graph=True)
    return model


@pytest.mark.parametrize("how", ["pickle", "deepcopy"])
def test_other_hooks_come_along_and_their_handles_take_them_off(model, how):
    twin = pickle.loads(pickle.dumps(model)) if how == "pickle" else copy.deepcopy(model)
    assert list(twin._forward_hooks.values()) == [count]
    calls.clear()
    twin(torch.ones(1, 2))
    twin.handle.remove()
    twin(torch.ones(1, 2))
    assert len(calls) == 1
    assert len(model._forward_hooks) == 2


def test_a_payload_is_torchs_own(model):
    watched = pickle.dumps(model)
    wandb.unwatch(model)
    del model._wandb_watch_called  # which wandb leaves behind
    strings = [
        {arg for _, arg, _ in pickletools.genops(data) if isinstance(arg, str)}
        for data in (watched, pickle.dumps(model))
    ]
    assert strings[0] == strings[1]
    assert not any("wandb" in string for string in strings[0] - {__name__})


def test_torch_does_not_warn_of_hooks_that_are_left_out(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ForkingPickler.dumps(model)


def test_a_wrapper_is_watched_and_pickled(run):
    averaged = torch.optim.swa_utils.AveragedModel(Model())
    run.watch(averaged, log="all", log_freq=1)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(averaged)))
    assert twin._forward_hooks == OrderedDict()
    assert not hasattr(twin, "_wandb_hook_names")


def test_revert_leaves_copyreg_as_it_was(model):
    assert Model in copyreg.dispatch_table
    wandb_ddp_patch.revert()
    try:
        assert Model not in copyreg.dispatch_table
        assert torch.utils.hooks.RemovableHandle not in copyreg.dispatch_table
        with pytest.raises((AttributeError, pickle.PicklingError), match="local object"):
            pickle.dumps(model)
    finally:
        wandb_ddp_patch.apply()
