"""What the stand-in has got: runs, their rows and files, and sweeps."""

import collections
import json
import threading

HISTORY, SUMMARY = "wandb-history.jsonl", "wandb-summary.json"


class Run:
    """A run, as the server has it.

    Attributes:
        files: The lines of each streamed file, by their number.
        uploads: The content of each file that was uploaded whole.
        config: The last config that was sent, without wandb's own entry.
        exit_code: None while the run goes on.
        keys: How often was asked with which key.
        overwritten: Lines of the history that came twice, and differed.
        came: All lines of the history as they came, whichever place they were given: where
            several processes write one run (shared mode), each counts its own from 0.
    """

    def __init__(self, entity, project, name):
        self.entity, self.project, self.name = entity, project, name
        self.id = f"id-of-{name}"
        self.display_name = name
        self.files = collections.defaultdict(dict)
        self.uploads = {}
        self.raw_config = {}
        self.sweep = None
        self.summary_metrics = "{}"
        self.exit_code = None
        self.keys = collections.Counter()
        self.overwritten = []
        self.came = []

    @property
    def config(self):
        values = {key: value["value"] for key, value in self.raw_config.items() if key != "_wandb"}
        return {key: value for key, value in values.items() if key != "wandb_version"}

    @property
    def rows(self):
        """The history, in the order of its lines."""
        return [json.loads(line) for _, line in sorted(self.files[HISTORY].items())]

    @property
    def missing(self):
        """The numbers of lines of the history that never came."""
        got = self.files[HISTORY]
        return sorted(set(range(max(got, default=-1) + 1)) - set(got))

    @property
    def summary(self):
        lines = sorted(self.files[SUMMARY].items())
        return json.loads(lines[-1][1] if lines else self.summary_metrics)

    def values(self, name):
        """The values of one name in the rows, in their order: what one worker has logged."""
        return [row[name] for row in self.rows if name in row]

    def take(self, name, offset, lines):
        """Take lines of a streamed file; the same ones may come again."""
        kept = self.files[name]
        if name == HISTORY:
            self.came += lines
        for at, line in enumerate(lines, offset):
            if name == HISTORY and kept.get(at, line) != line:
                self.overwritten.append(at)
            kept[at] = line


class Sweep:
    """A sweep that hands out one run for each value of its only parameter, once."""

    def __init__(self, name, entity, project):
        self.name, self.entity, self.project = name, entity, project
        self.commands = []

    def plan(self, parameter, values):
        for n, value in enumerate(values):
            run = {"run_id": f"{self.name}-{n}", "args": {parameter: {"value": value}}}
            self.commands.append({"type": "run", "program": None, **run})
        self.commands.append({"type": "exit"})


class State:
    """All of it. Whoever reads or changes it holds the lock.

    Attributes:
        unknown: What was asked and not understood: the stand-in lacks it.
    """

    def __init__(self):
        self.lock = threading.RLock()
        self.runs, self.sweeps, self.agents = {}, {}, {}
        self.unknown = []

    def run(self, entity, project, name, make=False):
        key = (entity, project, name)
        if make and key not in self.runs:
            self.runs[key] = Run(*key)
        return self.runs.get(key)
