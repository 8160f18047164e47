"""What a pickled config weighs, and how long pickling and loading it takes.

A plain dict, dict(wandb.config), which is the workaround that people use, and a patched
Config of the same items, 10 to 100,000 of them: numbers, short strings, and every 50th
a nested dict; beside it, "flat", the same without nested ones, because nested ones are
what the patch has to copy. wandb's own Config stands beside them where it works: here
its error is noted. Each round is a process, in which pyperf measures all arms.
"""

import pickle
import sys

import harness
import wandb

import wandb_ddp_patch

SIZES = 10, 100, 1000, 10_000, 100_000
LOOP_SECONDS = 0.02
DICT, WORKAROUND, OURS = "dict", "dict(wandb.config)", "Config"
DUMPS = {
    DICT: "pickle.dumps(items)",
    WORKAROUND: "pickle.dumps(dict(config))",
    OURS: "pickle.dumps(config)",
}
LOADS = {DICT: "pickle.loads(of_items)", OURS: "pickle.loads(of_config)"}
STATEMENTS = {"dumps": DUMPS, "loads": LOADS}


def items_of(size, kind):
    def value(n):
        if kind == "nested" and n % 50 == 7:
            return {"name": f"layer {n}", "sizes": [n, n + 1]}
        return f"value {n}" if n % 3 == 0 else n / 7

    return {f"key{n}": value(n) for n in range(size)}


def case(size, kind):
    """Make what the statements of a case use."""
    items, config = items_of(size, kind), wandb.Config()
    vars(config)["_items"].update(items)
    payloads = {"of_items": pickle.dumps(items), "of_config": pickle.dumps(config)}
    return {"pickle": pickle, "items": items, "config": config, **payloads}


CASES = [(size, kind) for kind in ("nested", "flat") for size in SIZES]


def benchmarks():
    for size, kind in CASES:
        names = case(size, kind)
        for what, arms in STATEMENTS.items():
            for arm, statement in arms.items():
                yield f"{what}, {arm}, {size} {kind}", statement, names, wandb_ddp_patch.apply


def upstream(config):
    """Say what pickling does without us."""
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
        "bytes": {DICT: len(names["of_items"]), OURS: len(names["of_config"])},
        "upstream": upstream(names["config"]),
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
        "loads of dict's",
        "upstream's",
    )
    rows = [
        (
            f"{one['keys']:,}",
            one["items"],
            f"{one['bytes'][DICT]:,}",
            one["bytes"][OURS] - one["bytes"][DICT],
            f"{one['dumps'][OURS]['of ' + DICT]:.3f}",
            f"{one['dumps'][OURS]['of ' + WORKAROUND]:.3f}",
            f"{one['loads'][OURS]['of ' + DICT]:.3f}",
            one["upstream"],
        )
        for one in result
    ]
    print(harness.table(header, rows))
    goals = [
        harness.goal(
            "bytes of a pickled config, over the dict's",
            max(one["bytes"][OURS] - one["bytes"][DICT] for one in result),
            350,
            f"{result[0]['bytes'][OURS]:,}, {SIZES[0]} keys",
            f"{result[0]['bytes'][DICT]:,}, {DICT}",
        )
    ]
    for one in result:
        if one["keys"] == max(SIZES):
            for what, baseline, at_most in (
                ("dumps", DICT, 1.1),
                ("dumps", WORKAROUND, 1.0),
                ("loads", DICT, 1.1),
            ):
                name = f"pickle.{what}() of a config with {one['keys']:,} keys, {one['items']}"
                ratio = harness.of(one[what], OURS, baseline)
                goals.append(harness.goal(name, at_most=at_most, **ratio))
    harness.save("payload", {"rounds": rounds, "sizes": result, "goals": goals}, args.quick)


if __name__ == "__main__":
    main()
