"""What worker processes run in test_start_methods.py: importable, as spawn needs it.

What needs torch is in torch_workers.py: to import that takes longer than to import wandb.
"""


def items(config):
    return {key: val for key, val in dict(config).items() if not key.startswith("_")}


def look(things):
    """What a worker sees of a config, a run, a summary and two bound methods."""
    config, run, summary, log, global_log = things
    return {
        "config": items(config),
        "run": (run.id, run.name, run.project, run.group, items(run.config)),
        "same": run is log.__self__ is global_log.__self__,
        "summary": summary["x"],
    }


def look_and_log(things):
    seen = look(things)
    run, log = things[1], things[3]
    log({"logged": 1})
    seen["logged"] = run.summary["logged"]  # a round trip: it has arrived
    return seen


def put(queue, things):
    queue.put(look(things))


def put_after_logging(queue, things):
    queue.put(look_and_log(things))


def get_and_put(inbox, outbox):
    outbox.put(look(inbox.get()))


def raises(things):
    look(things)
    raise ValueError("as asked")


def give_back(run):
    return run
