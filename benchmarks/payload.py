"""What a pickled config weighs, and how long pickling and loading it takes.

A plain dict and a patched Config of the same items, 10 to 100,000 of them: numbers,
short strings, and every 50th a nested dict; beside it, "flat", the same without nested
ones, because nested ones are what the patch has to copy. wandb's own Config stands
beside them where it works: here its error is noted. The arms take turns, with so many
loops for small configs that each takes 20 ms of CPU time, which is what is measured;
Python's garbage collector is off meanwhile, as timeit has it.
"""

import pickle
import time
import timeit

import harness
import wandb

import wandb_ddp_patch

SIZES = 10, 100, 1000, 10_000, 100_000
SECONDS = 0.02


def items_of(size, nested):
    def value(n):
        if nested and n % 50 == 7:
            return {"name": f"layer {n}", "sizes": [n, n + 1]}
        return f"value {n}" if n % 3 == 0 else n / 7

    return {f"key{n}": value(n) for n in range(size)}


def config_of(items):
    config = wandb.Config()
    vars(config)["_items"].update(items)
    return config


def upstream(config):
    """Say what pickling does without us."""
    wandb_ddp_patch.revert()
    try:
        return "loads" if dict(pickle.loads(pickle.dumps(config))) == dict(config) else "differs"
    except Exception as error:
        return type(error).__name__
    finally:
        wandb_ddp_patch.apply()


def loops(statement, **names):
    timer = timeit.Timer(statement, timer=time.process_time, globals={"pickle": pickle, **names})
    timer.timeit(1)
    number = max(1, int(SECONDS / timer.timeit(1)))
    return lambda: timer.timeit(number) / number


def measure(size, rounds, nested):
    items = items_of(size, nested)
    values = {"dict": items, "Config": config_of(items)}
    payloads = {name: pickle.dumps(value) for name, value in values.items()}
    dumps = {n: loops("pickle.dumps(value)", value=value) for n, value in values.items()}
    loads = {n: loops("pickle.loads(payload)", payload=payloads[n]) for n in values}
    kind = "nested" if nested else "flat"
    what = f"{size:,} keys, {kind}"
    return {
        "keys": size,
        "items": kind,
        "bytes": {name: len(payload) for name, payload in payloads.items()},
        "dumps": harness.summary(harness.interleave(dumps, rounds, 1, what), "dict"),
        "loads": harness.summary(harness.interleave(loads, rounds, 1, what), "dict"),
        "upstream": upstream(values["Config"]),
    }


def main():
    args = harness.parser(__doc__, 15).parse_args()
    rounds = args.rounds or (3 if args.quick else 15)
    result = [measure(size, rounds, nested) for nested in (True, False) for size in SIZES]
    header = (
        "keys",
        "items",
        "bytes, dict",
        "bytes over it",
        "dumps of dict's",
        "loads of dict's",
        "upstream's",
    )
    rows = [
        (
            f"{one['keys']:,}",
            one["items"],
            f"{one['bytes']['dict']:,}",
            one["bytes"]["Config"] - one["bytes"]["dict"],
            f"{one['dumps']['Config']['of dict']:.3f}",
            f"{one['loads']['Config']['of dict']:.3f}",
            one["upstream"],
        )
        for one in result
    ]
    print(harness.table(header, rows))
    goals = [
        harness.goal(
            "bytes of a pickled config, over the dict's",
            max(one["bytes"]["Config"] - one["bytes"]["dict"] for one in result),
            350,
            f"{result[0]['bytes']['Config']:,}, {SIZES[0]} keys",
            f"{result[0]['bytes']['dict']:,}, a dict",
        )
    ]
    for one in result:
        if one["keys"] == max(SIZES):
            goals += [
                harness.goal(
                    f"pickle.{what}() of a config with {one['keys']:,} keys, {one['items']}",
                    one[what]["Config"]["of dict"],
                    1.1,
                    harness.seconds(one[what]["Config"]["median_s"]),
                    f"{harness.seconds(one[what]['dict']['median_s'])}, a dict",
                )
                for what in ("dumps", "loads")
            ]
    harness.save("payload", {"rounds": rounds, "sizes": result, "goals": goals}, args.quick)


if __name__ == "__main__":
    main()
