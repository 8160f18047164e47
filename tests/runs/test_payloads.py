"""Payloads outlive a release of this package: what 0.1.0 has written loads, and looks so.

The pickles were written with wandb_ddp_patch 0.1.0 and wandb 0.31.0. Their run is over.
"""

import io
import pickle
import pickletools

import pytest
import wandb
from conftest import ROOT

import wandb_ddp_patch  # noqa: F401
from wandb_ddp_patch.probes.multiprocess import in_worker

WRITTEN = ROOT / "tests" / "pickles" / "0.1.0"
ITEMS = {"lr": 0.1, "layers": [1, 2], "nested": {"depth": 1}}
EACH = pytest.mark.parametrize("protocol", [2, 4])
pytestmark = pytest.mark.usefixtures("no_defaults")  # wandb makes folders where it is


def load(name, protocol):
    return pickle.loads((WRITTEN / f"{name}-{protocol}.pickle").read_bytes())


def names_in(data):
    """The module-level names that a pickle loads, and the strings in it."""
    found = []

    class Finder(pickle.Unpickler):
        def find_class(self, module, name):
            found.append(f"{module}.{name}")
            return super().find_class(module, name)

    Finder(io.BytesIO(data)).load()
    strings = {arg for _, arg, _ in pickletools.genops(data) if isinstance(arg, str)}
    return set(found), strings


@EACH
def test_a_run_that_0_1_0_has_written(protocol):
    things = load("run", protocol)
    run = things["run"]
    assert (run.id, run.name, run.project, run.group) == ("goldenid", "name", "project", "group")
    assert {k: v for k, v in dict(run.config).items() if k[0] != "_"} == ITEMS
    assert things["config"].lr == 0.1
    assert things["log"].__self__ is things["global"].__self__ is run
    assert (things["summary"]["x"], things["sub"]["loss"]) == (7, 0.5)
    with pytest.raises(wandb.errors.UsageError, match="its service is gone"):
        run.log({"x": 1})


@EACH
def test_a_disabled_run_that_0_1_0_has_written(protocol):
    things = load("disabled", protocol)
    run = things["run"]
    assert (run.id, run.disabled, run.summary["x"]) == ("disabledid", True, 1)
    assert things["log"].__self__ is run
    assert run.config.lr == things["config"].lr == 1


@EACH
def test_what_stands_for_wandbs_names_that_0_1_0_has_written(protocol):
    things = load("preinit", protocol)
    assert things == {"config": wandb.config, "log": wandb.log, "summary": wandb.summary}


@EACH
def test_payloads_of_today_name_what_those_of_0_1_0_do(run, protocol):
    """So 0.1.0 loads them, too."""
    run.log({"x": 7})
    run.summary["best"] = {"loss": 0.5}
    things = {"run": run, "config": run.config, "summary": run.summary}
    things.update(sub=run.summary["best"], log=run.log, **{"global": wandb.log})
    names, strings = names_in(pickle.dumps(things, protocol))
    then, strings_then = names_in((WRITTEN / f"run-{protocol}.pickle").read_bytes())
    assert names == then
    keys = {
        "key",
        "owner",
        "attach_id",
        "service",
        "owner_file",
        "local_address",
        "finished",
        "metadata",
        "config",
    }
    assert keys <= strings & strings_then


def test_a_run_in_a_worker_has_what_wandb_expects_of_its_config(run):
    """Masks and boxes put their labels there, and send it with all that is there."""
    add = type(run)._add_singleton
    add(run, "mask/class_labels", "owner's", {0: "dog"})
    assert in_worker(labels_in_worker, run) == ["owner's", "worker's"]
    assert list(run.config["_wandb"]["mask/class_labels"]) == ["owner's"]


def labels_in_worker(run):
    run._add_singleton("mask/class_labels", "worker's", {1: "cat"})
    return list(pickle.loads(pickle.dumps(run)).config["_wandb"]["mask/class_labels"])
