import sys
from types import ModuleType

import torch
import wandb


def test_load_checkpoint_with_config(tmp_path):
    config = wandb.Config()
    config.update({"lr": 0.1})
    path = tmp_path / "model.pt"
    torch.save({"config": config, "weights": torch.zeros(2)}, path)

    loaded = torch.load(path)

    assert type(loaded["config"]) is wandb.Config
    assert dict(loaded["config"]) == {"lr": 0.1}


def test_config_with_bare_torch_module(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))

    assert dict(wandb.Config()) == {}
