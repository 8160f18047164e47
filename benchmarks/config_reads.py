"""What reading a config costs: wandb's own, the patched one, and peers.

Each round is a process, in which pyperf measures all arms. wandb's own Config is the
same class with the patch taken off. A dict has no attributes: for it, the three reads
of attributes are d["lr"], d.get("missing") and "missing" in d. Where a peer can't do a
read, it has none.
"""

import sys
import types

import harness
import wandb

import wandb_ddp_patch

ALONE, PATCHED = "wandb.config, wandb alone", "wandb.config, with the patch"
READS = {
    "config.lr": "config.lr",
    'config["lr"]': 'config["lr"]',
    "getattr(), missing name": "getattr(config, 'missing', None)",
    "hasattr(), missing name": "hasattr(config, 'missing')",
    "hasattr(), dunder name": "hasattr(config, '__missing_name__')",
}
OF_DICT = {
    "config.lr": 'config["lr"]',
    "getattr(), missing name": "config.get('missing')",
    "hasattr(), missing name": "'missing' in config",
    "hasattr(), dunder name": "'__missing_name__' in config",
}
LOOP_SECONDS = 0.005
ITEMS = {"lr": 0.1, **{f"key{n}": n for n in range(20)}}


def arms():
    config = wandb.Config()
    vars(config)["_items"].update(ITEMS)
    yield ALONE, config
    yield PATCHED, config
    yield "dict", dict(ITEMS)
    yield "dict(wandb.config)", dict(config)
    yield "SimpleNamespace", types.SimpleNamespace(**ITEMS)
    try:
        from omegaconf import OmegaConf

        yield "OmegaConf", OmegaConf.create(ITEMS)
    except ImportError:
        pass
    try:
        from ml_collections import ConfigDict

        yield "ml_collections.ConfigDict", ConfigDict(ITEMS)
    except ImportError:
        pass
    try:
        from easydict import EasyDict

        yield "EasyDict", EasyDict(ITEMS)
    except ImportError:
        pass


def cases():
    for name, config in arms():
        for read, statement in READS.items():
            if type(config) is dict:
                statement = OF_DICT.get(read, statement)
            try:
                exec(statement, {"config": config})
            except (AttributeError, KeyError, TypeError):
                continue
            prepare = wandb_ddp_patch.revert if name == ALONE else wandb_ddp_patch.apply
            yield f"{name}: {read}", statement, {"config": config}, prepare


def main():
    if "--worker" in sys.argv:
        harness.pyperf_round(list(cases()), LOOP_SECONDS)
        return
    args = harness.parser(__doc__, 25).parse_args()
    rounds = args.rounds or (2 if args.quick else 25)
    times = harness.pyperf_rounds(__file__, rounds, "config reads")
    names = [name for name, _ in arms()]
    result = {}
    for read in READS:
        took = {n: times[f"{n}: {read}"] for n in names if f"{n}: {read}" in times}
        result[read] = harness.summary(took, ALONE)
    rows = [
        (
            name,
            *(
                f"{harness.seconds(arms[name]['median_s'])} ({arms[name]['of ' + ALONE]:.2f})"
                if name in arms
                else ""
                for arms in result.values()
            ),
        )
        for name in names
    ]
    print(f"median of {rounds} processes (ratio to wandb alone)")
    print(harness.table(("", *(f"`{read}`" for read in READS)), rows))
    goals = [
        harness.goal(f"reading a config: {read}", at_most=1, **harness.of(arms, PATCHED, ALONE))
        for read, arms in result.items()
        if read != 'config["lr"]'  # which is not patched
    ]
    harness.save("config_reads", {"rounds": rounds, "reads": result, "goals": goals}, args.quick)


if __name__ == "__main__":
    main()
