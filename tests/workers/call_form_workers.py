"""A script for test_call_forms.py, on any release: the forms in which a run is called.

Usage: call_form_workers.py METHOD. Each worker logs one row by a call of its own form. How each
ended is in the file "codes.json": old releases redirect stdout, and may lose its end.
"""

import json
import multiprocessing
import sys

import wandb
from limits import WAIT_SECONDS
from wandb.sdk.wandb_run import Run

import wandb_ddp_patch  # noqa: F401


def plain(run, log, row):
    run.log(row)


def captured(run, log, row):
    """A method that was taken from the run before the fork, or pickled by itself."""
    log(row)


def of_class(run, log, row):
    Run.log(run, row)


class Loud(Run):
    def log(self, row, **kwargs):
        super().log(row, **kwargs)


def of_super(run, log, row):
    run.__class__ = Loud
    run.log(row)


def private(run, log, row):
    """What wandb's own code for torch, TensorBoard and gym calls."""
    getattr(run, "_log", run.log)(row)  # up to 0.12.0 or so there is no _log


def callback(run, log, row):
    if hasattr(run, "_partial_history_callback"):
        run._partial_history_callback(row, commit=True)
    else:
        run._history_callback({**row, "_step": 1000}, 1000)


FORMS = [plain, captured, of_class, of_super, private, callback]


def work(form, run, log):
    form(run, log, {form.__name__: 1})


def main():
    context = multiprocessing.get_context(sys.argv[1])
    run = wandb.init(mode="offline", project="p")
    log = run.log
    codes = {}
    for form in FORMS:
        worker = context.Process(target=work, args=(form, run, log))
        worker.start()
        worker.join(WAIT_SECONDS)
        codes[form.__name__] = worker.exitcode
        worker.kill()
    with open("codes.json", "w") as file:
        json.dump(codes, file)
    wandb.finish()


if __name__ == "__main__":
    main()
