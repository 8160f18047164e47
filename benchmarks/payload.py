"""What a pickled config weighs, and how long pickling and loading it takes.

A plain dict, dict(wandb.config), which is the workaround that people use, and a patched
Config of the same items, 10 to 100,000 of them: numbers, short strings, and every 50th
a nested dict; beside it, "flat", the same without nested ones, because nested ones are
what the patch has to copy, and "a run's", flat but for the dict that wandb puts into the
config of each run. A Namespace of the standard library, a class that does nothing, holds
the items, too: for any object a class is named and a state set, and few keys weigh less
than that. To load a Config, its __init__ is called, so that wandb alone can do it: the
time of that stands beside the Namespace's. wandb's own Config stands beside them where it
works: here its error is noted. Each round is a process, in which pyperf measures all arms.
"""

import pickle
import sys
from multiprocessing.managers import Namespace

import harness
import wandb

import wandb_ddp_patch

SIZES = 10, 100, 1000, 10_000, 100_000
LOOP_SECONDS = 0.02
DICT, WORKAROUND, OURS = "dict", "dict(wandb.config)", "wandb.config"
OBJECT, MADE = "a plain object", "a plain object, plus Config()"
DUMPS = {
    DICT: "pickle.dumps(items)",
    OBJECT: "pickle.dumps(thing)",
    WORKAROUND: "pickle.dumps(dict(config))",
    OURS: "pickle.dumps(config)",
}
LOADS = {
    DICT: "pickle.loads(of_items)",
    OBJECT: "pickle.loads(of_thing)",
    MADE: "pickle.loads(of_thing), Config()",
    OURS: "pickle.loads(of_config)",
}
STATEMENTS = {"dumps": DUMPS, "loads": LOADS}
# What wandb 0.31 puts into the config of an offline run.
OF_WANDB = {
    "python_version": "3.11.7",
    "t": {"4": "3.11.7", "3": [4, 16], "5": "0.31.0", "12": "0.31.0", "13": "linux-x86_64"},
    "m": [],
    "cli_version": "0.31.0",
}


def items_of(size, kind):
    def value(n):
        if kind == "nested" and n % 50 == 7:
            return {"name": f"layer {n}", "sizes": [n, n + 1]}
        return f"value {n}" if n % 3 == 0 else n / 7

    first = {"_wandb": OF_WANDB} if kind == "a run's" else {}
    return {**first, **{f"key{n}": value(n) for n in range(size)}}


def case(size, kind):
    """Make what the statements of a case use."""
    items, config = items_of(size, kind), wandb.Config()
    vars(config)["_items"].update(items)
    names = {"items": items, "thing": Namespace(_items=items), "config": config}
    payloads = {f"of_{name}": pickle.dumps(value) for name, value in names.items()}
    return {"pickle": pickle, "Config": wandb.Config, **names, **payloads}


KINDS = {"nested": "a nested config", "flat": "a flat config", "a run's": "a run's config"}
CASES = [(size, kind) for kind in ("nested", "flat") for size in SIZES]
CASES += [(size, "a run's") for size in SIZES[:3]]

LARGE = ("dumps", WORKAROUND, 1.0), ("loads", DICT, 1.1)
# With so few keys, no object takes 1.1 of a dict's time. What we add to that of an object
# is a copy, made in Python, because another thread may go on; and a look which process
# it is that loads it.
SMALL = ("dumps", OBJECT, 1.25), ("loads", MADE, 1.2)
GOALS = {
    (100_000, "nested"): LARGE,
    (100_000, "flat"): LARGE,
    (10, "flat"): SMALL,
    (100, "flat"): SMALL,
    (1000, "flat"): (("dumps", DICT, 1.1), ("loads", DICT, 1.0)),
    (1000, "a run's"): (("dumps", DICT, 1.1), ("dumps", WORKAROUND, 1.0), ("loads", DICT, 1.0)),
}


def benchmarks():
    for size, kind in CASES:
        names = case(size, kind)
        for what, arms in STATEMENTS.items():
            for arm, statement in arms.items():
                yield f"{what}, {arm}, {size} {kind}", statement, names, wandb_ddp_patch.apply


def wandb_alone(config):
    """Return what comes of pickling without the patch."""
    wandb_ddp_patch.revert()
    try:
        return "loads" if dict(pickle.loads(pickle.dumps(config))) == dict(config) else "differs"
    except Exception as error:
        return type(error).__name__
    finally:
        wandb_ddp_patch.apply()


def measured(size, kind, times):
    names = case(size, kind)
    one = {
        "keys": size,
        "items": kind,
        "bytes": {
            DICT: len(names["of_items"]),
            OBJECT: len(names["of_thing"]),
            OURS: len(names["of_config"]),
        },
        "wandb alone": wandb_alone(names["config"]),
    }
    for what, arms in STATEMENTS.items():
        took = {arm: times[f"{what}, {arm}, {size} {kind}"] for arm in arms}
        one[what] = harness.summary(took, *(arm for arm in arms if arm != OURS))
    return one


def main():
    if "--worker" in sys.argv:
        harness.pyperf_round(list(benchmarks()), LOOP_SECONDS)
        return
    args = harness.parser(__doc__, 7).parse_args()
    rounds = args.rounds or (1 if args.quick else 7)
    times = harness.pyperf_rounds(__file__, rounds, "payload")
    result = [measured(size, kind, times) for size, kind in CASES]
    header = (
        "keys",
        "items",
        "bytes, dict",
        "bytes over it",
        "dumps of dict's",
        "dumps of dict(config)'s",
        "an object's",
        "loads of dict's",
        "an object's",
        "wandb alone",
    )
    rows = [
        (
            f"{one['keys']:,}",
            one["items"],
            f"{one['bytes'][DICT]:,}",
            one["bytes"][OURS] - one["bytes"][DICT],
            f"{one['dumps'][OURS]['of ' + DICT]:.3f}",
            f"{one['dumps'][OURS]['of ' + WORKAROUND]:.3f}",
            f"{one['dumps'][OBJECT]['of ' + DICT]:.3f}",
            f"{one['loads'][OURS]['of ' + DICT]:.3f}",
            f"{one['loads'][OBJECT]['of ' + DICT]:.3f}",
            one["wandb alone"],
        )
        for one in result
    ]
    print(harness.table(header, rows))
    goals = [
        harness.goal(
            "a pickled config: bytes more than a dict",
            max(one["bytes"][OURS] - one["bytes"][DICT] for one in result),
            350,
            f"{result[0]['bytes'][OURS]:,} bytes, {SIZES[0]} keys",
            f"{result[0]['bytes'][DICT]:,} bytes, {DICT}",
            unit="bytes",
        )
    ]
    for one in result:
        for what, baseline, at_most in GOALS.get((one["keys"], one["items"]), ()):
            name = f"pickle.{what}() of {KINDS[one['items']]}, {one['keys']:,} keys"
            ratio = harness.of(one[what], OURS, baseline)
            goals.append(harness.goal(name, at_most=at_most, **ratio))
    harness.save("payload", {"rounds": rounds, "sizes": result, "goals": goals}, args.quick)


if __name__ == "__main__":
    main()
