import copy
import gc
import os
import pickle
import weakref

import pytest
import wandb
from wandb.sdk import wandb_run


@pytest.mark.parametrize("run_id", (None, "my-run"))
def test_run_pickle_in_same_process(run_id):
    run = wandb_run.Run(settings=wandb.Settings(run_id=run_id))

    assert pickle.loads(pickle.dumps(run)) is run
    assert pickle.loads(pickle.dumps(run.log)).__self__ is run
    assert copy.copy(run) is run


def test_run_pickle_in_forked_process(monkeypatch):
    run = wandb_run.Run(settings=wandb.Settings(run_id="my-run"))
    pickled = pickle.dumps(run)

    monkeypatch.setattr(os, "getpid", lambda: -1)

    assert pickle.loads(pickled) is not run


def test_run_pickle_does_not_keep_run():
    run = wandb_run.Run(settings=wandb.Settings(run_id="my-run"))
    pickled = pickle.dumps(run)
    reference = weakref.ref(run)

    del run
    gc.collect()

    assert reference() is None
    assert isinstance(pickle.loads(pickled), wandb_run.Run)
