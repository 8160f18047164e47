"""Payloads that are kept load, whatever the number of their format; those of today are as theirs.

tests/pickles holds what this file has written as a script, in an empty folder and with tests/ on
PYTHONPATH; their run is finished. To be written for each new number in runs/payload_format.py; the
older ones stay, because CHANGELOG.md promises that they load.
"""

import io
import os
import pickle
import pickletools
import sys

import pytest
import wandb
from conftest import ROOT

import wandb_ddp_patch  # noqa: F401
from wandb_ddp_patch.handover import payload
from wandb_ddp_patch.probes.multiprocess import in_worker
from wandb_ddp_patch.runs.payload_format import FORMAT, Payload

PICKLES = ROOT / "tests" / "pickles"
WRITTEN = PICKLES / f"format-{FORMAT}"
PROTOCOLS = (2, 4)
ITEMS = {"lr": 0.1, "layers": [1, 2], "nested": {"depth": 1}}
EACH = pytest.mark.parametrize("protocol", PROTOCOLS)
OF_ANY_FORMAT = pytest.mark.parametrize(
    ("folder", "protocol"),
    [
        pytest.param(folder, protocol, id=f"{folder.name}, protocol {protocol}")
        for folder in sorted(PICKLES.glob("format-*"))
        for protocol in PROTOCOLS
    ],
)
pytestmark = pytest.mark.usefixtures("no_defaults")  # wandb makes folders where it is


def write():
    """Write the pickles that are kept."""
    WRITTEN.mkdir(parents=True, exist_ok=True)
    save("preinit", {"config": wandb.config, "log": wandb.log, "summary": wandb.summary})
    os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true")
    about = {"project": "project", "name": "name", "group": "group", "id": "goldenid"}
    with wandb.init(**about, config=ITEMS) as run:
        save("run", things_of(run))
    # Its id is its own choice, but for what loads it that is only a value.
    run = wandb.init(mode="disabled", id="disabledid", config={"lr": 1})
    run.log({"x": 1})
    save("disabled", {"run": run, "config": run.config, "log": run.log})


def things_of(run):
    run.log({"x": 7})
    run.summary["best"] = {"loss": 0.5}
    things = {"run": run, "config": run.config, "summary": run.summary}
    things.update(sub=run.summary["best"], log=run.log, **{"global": wandb.log})
    return things


def save(name, things):
    for protocol in PROTOCOLS:
        (WRITTEN / f"{name}-{protocol}.pickle").write_bytes(pickle.dumps(things, protocol))


def load(folder, name, protocol):
    return pickle.loads((folder / f"{name}-{protocol}.pickle").read_bytes())


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


def test_those_of_each_format_are_kept():
    expected = {f"format-{number}" for number in range(1, FORMAT + 1)}
    assert {folder.name for folder in PICKLES.iterdir()} == expected


@OF_ANY_FORMAT
def test_a_run(folder, protocol):
    things = load(folder, "run", protocol)
    run = things["run"]
    assert (run.id, run.name, run.project, run.group) == ("goldenid", "name", "project", "group")
    assert {k: v for k, v in dict(run.config).items() if k[0] != "_"} == ITEMS
    assert things["config"].lr == 0.1
    assert things["log"].__self__ is things["global"].__self__ is run
    assert (things["summary"]["x"], things["sub"]["loss"]) == (7, 0.5)
    with pytest.raises(wandb.errors.UsageError, match=r"its service can't be|has finished it"):
        run.log({"x": 1})


@OF_ANY_FORMAT
def test_a_disabled_run(folder, protocol):
    things = load(folder, "disabled", protocol)
    run = things["run"]
    assert (run.id, run.disabled, run.summary["x"]) == ("disabledid", True, 1)
    assert things["log"].__self__ is run
    assert run.config.lr == things["config"].lr == 1


@OF_ANY_FORMAT
def test_what_stands_for_wandbs_names(folder, protocol):
    things = load(folder, "preinit", protocol)
    assert things == {"config": wandb.config, "log": wandb.log, "summary": wandb.summary}


@EACH
def test_payloads_of_today_have_the_names_and_keys_of_those(run, protocol):
    names, strings = names_in(pickle.dumps(things_of(run), protocol))
    then, strings_then = names_in((WRITTEN / f"run-{protocol}.pickle").read_bytes())
    assert names == then
    # Those that readers may not do without: an optional one may come without a new number.
    assert Payload.__required_keys__ <= strings & strings_then


def test_an_optional_key_that_is_not_known_is_passed_on(run):
    """A later release may add one without a new number."""
    written = {**payload.dump(run), "added": 1, "key": "0" * 32}
    loaded = payload.load(written)
    assert (loaded.id, payload.dump(loaded)["added"]) == (run.id, 1)


@pytest.mark.parametrize("number", [FORMAT + 1, None])
def test_a_payload_of_another_format_loads_and_says_so_when_it_is_used(run, number):
    written = {**payload.dump(run), "format": number, "key": f"key {number}", "owner_pid": {}}
    del written["owner_file"], written["metadata"]["url"]
    run = pickle.loads(pickle.dumps({"model": 1, "run": payload.load(written)}))["run"]
    assert (run.project, run.url, run.config.items()) == (
        "project",
        None,
        written["config"].items(),
    )
    with pytest.raises(
        wandb.errors.UsageError, match=f"format {number}, and this .* reads {FORMAT}"
    ):
        run.log({"x": 1})


@pytest.mark.parametrize(
    "written", [{"format": FORMAT + 1}, {"format": 7, "config": 1, "metadata": 1}]
)
def test_a_payload_of_which_nothing_is_understood(written):
    run = payload.load(written)
    assert (run.id, dict(run.config)) == (None, {})
    with pytest.raises(wandb.errors.UsageError, match="install the same release everywhere"):
        run.log({"x": 1})


def test_a_run_in_a_worker_has_what_wandb_expects_of_its_config(run):
    """Masks and boxes put their labels there, and send it with all that is there."""
    add = type(run)._add_singleton
    add(run, "mask/class_labels", "owner's", {0: "dog"})
    assert in_worker(labels_in_worker, run) == ["owner's", "worker's"]
    assert list(run.config["_wandb"]["mask/class_labels"]) == ["owner's"]


def labels_in_worker(run):
    run._add_singleton("mask/class_labels", "worker's", {1: "cat"})
    return list(pickle.loads(pickle.dumps(run)).config["_wandb"]["mask/class_labels"])


if __name__ == "__main__":
    sys.exit(write())
