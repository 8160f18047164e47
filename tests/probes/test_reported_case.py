"""The report itself: wandb 0.10.23 under Python 3.9, issue 2007."""

import pytest

SCRIPT = """
import argparse
import multiprocessing as mp
import wandb
{patched}

def train(rank, args):
    print(rank, dict(args.config))

if __name__ == "__main__":
    wandb.init(project="w2v_did", config={{"lr": 0.1}})
    args = argparse.Namespace(config=wandb.config)
    process = mp.get_context("spawn").Process(target=train, args=(0, args))
    process.start()
    process.join()
    assert process.exitcode == 0
"""
PATCHED = "import wandb_ddp_patch"


@pytest.fixture
def old(release):
    return release("0.10.23", "3.9")


@pytest.mark.parametrize(
    ("patched", "env"), [("", {}), (PATCHED, {"WANDB_DDP_PATCH": "0"})], ids=["not imported", "off"]
)
def test_without_the_patch_it_fails_as_reported(fresh, old, patched, env):
    # 0.10.23 captures the console in a thread, and may lose the traceback's end.
    env = {"WANDB_CONSOLE": "off", **env}
    traceback = fresh(SCRIPT.format(patched=patched), python=old, fails=True, **env)
    assert "reduction.dump(process_obj, fp)" in traceback
    assert 'wandb_config.py", line 151, in __getattr__' in traceback
    assert "\nKeyError: '__getstate__'\n" in traceback


@pytest.mark.parametrize("first", ["wandb first", "patched first"])
def test_with_the_patch_the_worker_prints_the_config(fresh, old, first):
    script = SCRIPT.format(patched=PATCHED)
    if first == "patched first":
        script = PATCHED + script.replace(PATCHED, "")
    env = {"WANDB_CONSOLE": "off"}  # as above: what a worker prints is lost now and then
    assert fresh(script, python=old, quiet=False, **env) == "0 {'lr': 0.1}\n"
