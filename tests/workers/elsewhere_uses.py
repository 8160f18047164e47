"""What a worker does with what it was handed: each is done here, and on another machine.

A use is a pair: what the owner hands over, and what a worker does with that. What it returns,
and how many rows come of it, must be the same in both places, and as ``EXPECTED`` says.
"""

import copy
import functools
import glob
import os
import pickle
import re

import elsewhere_jobs

from wandb_ddp_patch import runfile
from wandb_ddp_patch.probes import multiprocess
from wandb_ddp_patch.probes.offline_run import (
    ITEMS,
    check_rows,
    config_items,
    offline_run,
    run_path,
)
from wandb_ddp_patch.probes.registry import check
from wandb_ddp_patch.runs import state

HERE, THERE = "here", "there"
_start_here = multiprocess._start


def the_run(run, place):
    return (run,)


def methods(run, place):
    import wandb

    row = functools.partial(run.log, {place: 0})
    return run.log, row, wandb.log, run.summary.update, run.config.get


def call_methods(place, log, row, global_log, update, get):
    run = log.__self__
    for call in (row, functools.partial(log, {place: 1}), functools.partial(global_log)):
        call(*() if call.args else ({place: 2},))
    update({f"{place} updated": 3})
    same = run is row.func.__self__ is global_log.__self__
    return same, run.summary[f"{place} updated"], get("lr")


def use_globals(place, run):
    import wandb

    before = wandb.run is None
    run.log({place: 0})
    found = before, wandb.run is run, wandb.config is run.config, wandb.log == run.log
    wandb.log({place: 1})
    wandb.summary[f"{place} global"] = 1
    found += (run.summary[f"{place} global"],)
    wandb.finish()
    return (*found, wandb.run is None)


def configs(run, place):
    return run, run.config


def use_configs(place, run, config):
    import wandb

    before = config is run.config, config_items(config)
    config.update({place: {"x": 1}})
    try:
        run.config["lr"] = 5
    except Exception as error:
        told = type(error).__name__
    run.log({place: 0})
    wandb.config[f"{place} too"] = 2
    twin = copy.deepcopy(config)
    twin.update({"of the copy": 1})
    return *before, told, config[place], config[f"{place} too"], "of the copy" in config


def summaries(run, place):
    run.summary["x"], run.summary["best"] = 7, {"loss": 0.5}
    return run, run.summary, run.summary["best"]


def use_summaries(place, run, summary, best):
    read = summary["x"], best["loss"], hasattr(summary, "missing")
    for n, twin in enumerate((copy.copy(summary), copy.deepcopy(summary))):
        twin["x"] = 8 + n
        read += (twin["x"], summary["x"])
    summary[place] = 1
    summary.update({f"{place} updated": 2})
    run.log({place: 3})
    return *read, summary[f"{place} updated"], run.summary[place]


def use_media(place, run):
    import wandb

    table = wandb.Table(columns=["a", "b"], data=[[1, "one"], [2, "two"]])
    run.log({place: 0, f"{place} html": wandb.Html(f"<b>{place}</b>")})
    run.log({place: 1, f"{place} table": table})
    run.log({place: 2, f"{place} list": [wandb.Html("one"), wandb.Html("two")]})
    if _has_pillow():
        from PIL import Image

        run.log({f"{place} image": wandb.Image(Image.new("L", (4, 4)))})
    return dict(run.summary[f"{place} html"])["_type"], run.summary[f"{place} table"]["nrows"]


def _has_pillow():
    try:
        import PIL  # noqa: F401
    except ImportError:
        return False
    return True


def models(run, place):
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    run.watch(model, log="all", log_freq=1)
    model(torch.ones(1, 2)).sum().backward()
    return run, model


def use_models(place, run, model):
    import torch

    arrived = [name for part in model.modules() for name in vars(part) if "wandb" in name]
    watched = torch.nn.Sequential(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), watched):
        twin(torch.ones(1, 2)).sum().backward()
    run.watch(watched, log="gradients", log_freq=1, idx=int(place == THERE) + 5)
    for _ in range(2):
        watched(torch.ones(1, 2)).sum().backward()
        run.log({place: 0})
    return arrived, all(parameter.grad is not None for parameter in model.parameters())


def use_copies(place, run):
    twins = [copy.copy(run), copy.deepcopy(run), pickle.loads(pickle.dumps(run))]
    run.log({place: 0})
    twins += [copy.copy(run), copy.deepcopy(run), pickle.loads(pickle.dumps(run))]
    log = pickle.loads(pickle.dumps(functools.partial(run.log, {place: 1})))
    log()
    return [twin is run for twin in twins], log.func.__self__ is run


def give_back(place, run):
    unused = pickle.dumps(run)
    run.log({place: 0})
    return unused, pickle.dumps((run, run.log, run.config, run.summary))


def is_the_owners(run, unused, used):
    back, log, config, summary = pickle.loads(used)
    return (
        pickle.loads(unused) is back is run,
        log.__self__ is run,
        config_items(config) == ITEMS,
        summary["here"] == 0,
    )


USES = {
    "methods": (methods, call_methods),
    "globals": (the_run, use_globals),
    "configs": (configs, use_configs),
    "summaries": (summaries, use_summaries),
    "media": (the_run, use_media),
    "models": (models, use_models),
    "copies": (the_run, use_copies),
    "back": (the_run, give_back),
}
# What a worker returns, and how many rows it logs.
EXPECTED = {
    "methods": ((True, 3, 0.1), 3),
    "globals": ((True, True, True, True, 1, True), 2),
    "configs": ((True, ITEMS, "ConfigError", {"x": 1}, 2, False), 1),
    "summaries": ((7, 0.5, False, 8, 7, 9, 7, 2, 3), 1),
    "media": (("html-file", 2), 3),
    "models": (([], True), 2),
    "copies": (([True] * 6, True), 2),
    "back": ((True, True, True, True), 1),
}


def do(name):
    """Do it in both places, with one run.

    Raises:
        AssertionError: It is not as expected in one of them.
    """
    hand, use = USES[name]
    expected, rows = EXPECTED[name]
    with offline_run() as run:
        for place, start in ((HERE, _start_here), (THERE, elsewhere_jobs.start)):
            multiprocess._start = start
            got = multiprocess.in_worker(_used, use, place, *hand(run, place))
            if name == "back":
                got = is_the_owners(run, *got)
            check(got == expected, f"{place}: got {got}")
        path = run_path(run)
        run.finish()
        check_rows(path, {HERE: rows, THERE: rows})
        LOOK.get(name, bool)(path)


def _used(use, place, *things):
    result = use(place, *things)
    names = {type(state.get_state(run).transport).__name__ for run in state.live_runs()}
    expected = "ServiceTransport" if place == HERE else "TunnelTransport"
    check(names == {expected}, f"{place}, the transports are {names}")
    return result


# --- what is in the run's folder then ---------------------------------------------


def look_for_configs(path):
    updates = [each for record in runfile.records(path) for each in record.config.update]
    told = {each.key: each.value_json for each in updates}
    check({HERE, THERE, f"{HERE} too", f"{THERE} too"} <= told.keys(), f"the config is {told}")


def look_for_media(path):
    media = os.path.join(os.path.dirname(path), "files", "media")
    kinds = {"html": 3, "table": 1, "images": int(_has_pillow())}
    for kind, count in kinds.items():
        files = glob.glob(os.path.join(media, kind, "*"))
        check(len(files) == 2 * count, f"{kind}: {sorted(files)}")
        check(all(map(os.path.getsize, files)), f"{kind}: a file is empty")


def look_for_models(path):
    rows = runfile.history(path)
    keys = [key for row in rows for key in row]
    for graph in ("graph_5", "graph_6"):
        count = sum(bool(re.match(rf"gradients/{graph}.*\.bins$", key)) for key in keys)
        check(count == 2 * 4, f"{count} gradients of {graph} in {sorted(set(keys))}")


LOOK = {"configs": look_for_configs, "media": look_for_media, "models": look_for_models}
