"""Models under wandb.watch()."""

from __future__ import annotations

import copy
import inspect
import io
import os
import pickle
import tempfile
from typing import Any, Dict, List, Tuple

from ..multiprocess import in_worker
from ..offline_run import offline_run
from ..registry import CannotRun, check, probe

_OPTIONS: Tuple[Dict[str, Any], ...] = (
    {"log": "gradients"},
    {"log": "parameters"},
    {"log": "all"},
    {"log": "all", "log_graph": True},
)


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise CannotRun("torch is not installed") from None
    return torch


def _model() -> Any:
    nn = _torch().nn
    return nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU(), nn.Linear(3, 1)))


def _watched() -> List[Any]:
    """Return a watched model for each set of options."""
    import wandb

    known = inspect.signature(wandb.watch).parameters  # some releases have no log_graph
    supported = [options for options in _OPTIONS if known.keys() >= options.keys()]
    models = [_model() for _ in supported]
    for model, options in zip(models, supported):
        wandb.watch(model, log_freq=1, **options)
        _train(model)
    return models


def _train(model: Any) -> None:
    model(_torch().ones(1, 2)).sum().backward()


def _check_unwatched(model: Any) -> None:
    for part in model.modules():
        _check_unwatched_part(part)


def _check_unwatched_part(part: Any) -> None:
    names = [name for name in vars(part) if "wandb" in name]
    check(not names, f"it has wandb's {names}")
    check(not part._forward_hooks, "it has wandb's hooks")


def _check_no_gradient_hooks(model: Any) -> None:
    hooked = [name for name, p in model.named_parameters() if p._backward_hooks]
    check(not hooked, f"its gradients of {hooked} have wandb's hooks")


@probe(5573, 2588, 961, fails=r"it has wandb's|Torch(History|Graph)\.")
def watch_pickle() -> None:
    """A watched model can be pickled, saved whole and copied; the copy is not watched."""
    torch = _torch()
    with offline_run():
        for model in _watched():
            file = io.BytesIO()
            torch.save(model, file)
            file.seek(0)
            for copied in (
                *(pickle.loads(pickle.dumps(model, p)) for p in range(2, 6)),
                torch.load(file, weights_only=False),
                copy.deepcopy(model),
            ):
                _check_same(copied, model)
                _check_no_gradient_hooks(copied)
            _check_unwatched_part(copy.copy(model))  # a shallow copy has the model's own parts


def _check_same(copied: Any, model: Any) -> None:
    torch = _torch()
    check(len(list(copied.modules())) == len(list(model.modules())), "it has other parts")
    check(torch.equal(copied(torch.ones(1, 2)), model(torch.ones(1, 2))), "it answers otherwise")
    _check_unwatched(copied)


@probe(5573, 2588, 961, fails=r"Torch(History|Graph)\.")
def watch_worker() -> None:
    """A watched model can be sent to workers and trained there in DistributedDataParallel."""
    with offline_run():
        in_worker(_train_distributed, _watched())  # one worker: it imports torch


def _train_distributed(models: List[Any]) -> None:
    distributed = _torch().distributed
    with tempfile.TemporaryDirectory() as folder:
        store = distributed.FileStore(os.path.join(folder, "store"), 1)
        distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        try:
            for model in models:
                _check_unwatched(model)
                _check_no_gradient_hooks(model)
                _train(_torch().nn.parallel.DistributedDataParallel(model))
                check(all(p.grad is not None for p in model.parameters()), "no gradients")
        finally:
            distributed.destroy_process_group()
