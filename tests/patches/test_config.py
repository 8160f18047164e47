"""Config in other interpreters: payloads that load without the patch, and what loading imports."""

import copy
import pickle
import sys

import pytest
from forks import PATCHED_WANDB, WHAT_WANDB_IMPORTS
from wandb.sdk.wandb_config import Config

import wandb_ddp_patch  # noqa: F401

# One worker has the interpreters that all of them fork.
pytestmark = pytest.mark.xdist_group("patches")

PATCHED_TORCH = "import wandb_ddp_patch, torch"
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def test_what_wandb_notes_of_a_run_stays_with_the_run(run):
    notes = run.config["_wandb"]
    for protocol in PROTOCOLS:
        twin = pickle.loads(pickle.dumps(run.config, protocol))
        assert "_wandb" not in twin
        assert dict(twin) == dict(run.config)
    assert run.config["_wandb"] is notes
    assert copy.copy(run.config)["_wandb"] == copy.deepcopy(run.config)["_wandb"] == notes


def test_scripts_that_import_other_things_get_the_same_bytes(fresh):
    script = """
        import hashlib, pickle
        import wandb_ddp_patch, wandb, joblib
        run = wandb.init(project="p", config={"lr": 0.1, "layers": [1, 2], "nested": {"depth": 1}})
        print(joblib.hash(run.config), hashlib.sha256(pickle.dumps(run.config)).hexdigest())
        """
    assert fresh(script) == fresh("        import torch, yaml\n" + script, quiet=False)


def test_loading_imports_no_yaml_where_there_are_no_defaults(forked_from):
    config = Config()
    config["lr"] = 1
    data = pickle.dumps(config)
    out = forked_from(
        f"""
        import pickle, sys
        import wandb_ddp_patch, wandb
        before = "yaml" in sys.modules
        print(pickle.loads({data!r}).lr, before, "yaml" in sys.modules)
        """,
        after=PATCHED_WANDB,
    )
    assert out == "1 False False\n"


@pytest.mark.parametrize("order", ["yaml first", "wandb first"])
def test_yaml_is_given_back_as_it_was(forked_from, order):
    after = {"yaml first": WHAT_WANDB_IMPORTS, "wandb first": PATCHED_WANDB}[order]
    out = forked_from(
        """
import wandb_ddp_patch, yaml, wandb
class Mine(yaml.SafeDumper): pass
Mine.add_multi_representer(Exception, Mine.represent_str)
class Theirs(yaml.Dumper): pass
Theirs.add_multi_representer(wandb.Config, lambda dumper, config: dumper.represent_list(["theirs"]))
config = wandb.Config()
config["lr"] = 0.1
for dumper in (Mine, yaml.SafeDumper, yaml.Dumper, Theirs):
    print(yaml.dump(config, Dumper=dumper).strip())
wandb_ddp_patch.revert()
print("yaml_multi_representers" in vars(yaml.representer.SafeRepresenter))
print([wandb.Config in dumper.yaml_multi_representers for dumper in (Mine, yaml.Dumper, Theirs)])
wandb_ddp_patch.apply()
print(yaml.dump(config, Dumper=Mine).strip())
""",
        after=after,
    )
    assert out.splitlines() == [
        *("lr: 0.1", "lr: 0.1", "lr: 0.1", "- theirs"),
        *("False", "[False, False, True]", "lr: 0.1"),
    ]


@pytest.mark.parametrize(
    ("version", "python"),
    [("newest", None), ("0.13.11", "3.11"), ("0.16.6", "3.11"), ("0.21.4", "3.11")],
)
def test_payload_loads_without_the_patch(run_script, release, tmp_path, run, version, python):
    """So a checkpoint never depends on us (wandb 0.13 and later)."""
    run.config.update_locked({"swept": 1}, user="sweep")
    data = [pickle.dumps(run.config, protocol) for protocol in PROTOCOLS]
    (tmp_path / "payloads").write_bytes(pickle.dumps(data))
    code = (
        "import pickle, sys\n"
        "assert sys.modules.get('wandb_ddp_patch') is None\n"
        "for data in pickle.load(open('payloads', 'rb')):\n"
        "    config = pickle.loads(data)\n"
        "    print(config, config._locked, config._users_inv, config.lr)\n"
        "assert sys.modules.get('wandb_ddp_patch') is None\n"
    )
    done = run_script(
        "-c",
        code,
        python=sys.executable if python is None else release(version, python),
        env={"PYTHONPATH": None, "PYTHONWARNINGS": "ignore", "WANDB_DDP_PATCH": "0"},
    )
    items = {"lr": 0.1, "layers": [1, 2], "nested": {"depth": 1}, "swept": 1}
    state = f"{items} {{'swept': 0}} {{0: 'sweep'}} 0.1"
    assert done.stdout.splitlines() == [state] * len(PROTOCOLS)


@pytest.mark.parametrize("order", ["torch first", "wandb first"])
def test_torch_loads_a_checkpoint_by_default(forked_from, order):
    out = forked_from(
        """
import torch, wandb, wandb_ddp_patch
config = wandb.Config()
config["lr"] = 0.1
torch.save({"config": config}, "checkpoint.pt")
print(torch.load("checkpoint.pt")["config"].lr)
print(torch.load("checkpoint.pt", weights_only=False)["config"].lr)
wandb_ddp_patch.revert()
print(wandb.Config in torch.serialization.get_safe_globals())
""",
        after={"torch first": PATCHED_TORCH, "wandb first": PATCHED_WANDB}[order],
        quiet=False,
    )
    assert out == "0.1\n0.1\nFalse\n"


@pytest.mark.parametrize("form", ["ours", "plain"])
def test_torch_loads_a_checkpoint_where_nobody_has_imported_wandb(forked_from, form):
    out = forked_from(
        """
        import copyreg, os, subprocess, sys
        import wandb_ddp_patch, torch
        first = torch.serialization.get_safe_globals()
        if len(sys.argv) == 1:
            import wandb
            configs = [wandb.Config(), wandb.Config()]
            configs[0]["lr"], configs[1]["lr"] = 0.1, 0.2
            if os.environ["FORM"] == "plain":  # as wandb's own may be one day
                copyreg.pickle(
                    wandb.Config, lambda c: (copyreg.__newobj__, (type(c),), c.__getstate__())
                )
            torch.save(configs, "checkpoint.pt")
            os.execv(sys.executable, [sys.executable, __file__, "load"])
        print("wandb" in sys.modules)
        open("config-defaults.yaml", "w").write("no: [yaml")
        one, two = torch.load("checkpoint.pt")  # the class is named once, and called twice
        os.remove("config-defaults.yaml")
        again, _ = torch.load("checkpoint.pt")
        kind = sys.modules["wandb"].Config
        print(type(one) is type(two) is type(again) is kind, one.lr, two.lr, again.lr)
        one["new"] = 0.3
        wandb_ddp_patch.revert()
        print(kind in torch.serialization.get_safe_globals(),
              len(first) - len(torch.serialization.get_safe_globals()))
        """,
        after=PATCHED_TORCH,
        quiet=False,
        FORM=form,
    )
    assert out.splitlines() == ["False", "True 0.1 0.2 0.1", "False 1"]
