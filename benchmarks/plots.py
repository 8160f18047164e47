"""Draw the results: a PNG and an SVG for each, beside their JSON.

A title says what was found, an axis what is better, and a note what was not measured.
Colours are Okabe and Ito's, which colour-blind people can tell apart
(https://jfly.uni-koeln.de/color/); with the patch is always the same blue. The same results
give the same files.
"""

import argparse

import harness
import matplotlib

matplotlib.use("Agg")

import math

from matplotlib import pyplot as plt
from matplotlib import ticker

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, RED, PINK = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#777777"

SPAWN, FORK = "torch.multiprocessing.spawn", "start_processes, fork"
WARM = "spawn(), warm"

plt.rcParams.update(
    {
        "figure.dpi": 150,
        # Opaque: on a page with a dark background, black on nothing can't be read.
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "font.size": 11,
        "axes.titlesize": 12,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": "#dddddd",
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "lines.markersize": 5,
        "svg.hashsalt": "wandb_ddp_patch",
    }
)


def cores(result):
    many = result["environment"]["cores"]
    return f"{many} core" + "s" * (many != 1)


def headline(figure, text):
    """Write what was found above a figure of several plots."""
    figure.suptitle(text, fontsize=12, x=0.01, ha="left")


def note(figure, *texts):
    """Write remarks below a figure: what it was measured on, what is missing."""
    text = ". ".join(text for text in texts if text)
    figure.supxlabel(text, fontsize=9, color="#555555", x=0.01, ha="left")


def not_measured(last, end, unit):
    """Return a remark that names what was not measured up to the end.

    Args:
        last: The last x that was measured, by the name of its line.
        end: The last x of the plot.
        unit: What x counts.
    """
    by_last = {}
    for name, x in last.items():
        if x < end:
            by_last.setdefault(x, []).append(name)
    return "; ".join(
        f"Not measured beyond {x:,} {unit}: {', '.join(names)}" for x, names in by_last.items()
    )


def spread(ys, apart, highest):
    """Move positions apart from each other, as little as it takes, in their order."""
    groups = []  # of neighbours that touch: centre, members
    for n in sorted(range(len(ys)), key=lambda n: ys[n]):
        members = [n]
        while True:
            half = apart * (len(members) - 1) / 2
            centre = min(sum(ys[m] for m in members) / len(members), highest - half)
            if not groups or centre - half - apart >= groups[-1][0] + groups[-1][2]:
                break
            members = groups.pop()[1] + members
        groups.append((centre, members, half))
    places = [0.0] * len(ys)
    for centre, members, half in groups:
        for at, n in enumerate(members):
            places[n] = centre - half + apart * at
    return places


def label_ends(axes, lines, apart=0.06):
    """Write each line's name at its end, in its colour.

    Args:
        lines: x and y of the last point, text and colour of each.
        apart: The least distance, as a part of the axes' height.
    """
    low, high = map(math.log, axes.get_ylim())
    heights = [(math.log(y) - low) / (high - low) for _, y, _, _ in lines]
    for (x, y, text, colour), place in zip(lines, spread(heights, apart, 0.97)):
        axes.annotate(
            text,
            (x, y),
            xytext=(1.04, place),
            textcoords="axes fraction",
            va="center",
            color=colour,
            fontsize=10,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "relpos": (0, 0.5)},
        )


def times_axis(axis):
    axis.set_major_formatter(ticker.FuncFormatter(lambda y, _: harness.seconds(y)))
    axis.set_minor_formatter(ticker.NullFormatter())


def counts_axis(axis):
    axis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axis.set_minor_locator(ticker.NullLocator())


def launch(result):
    workers = {int(n): arms for n, arms in result["workers"].items()}
    colours = {
        SPAWN: (BLACK, "o"),
        "start_processes, forkserver": (ORANGE, "s"),
        "ProcessPoolExecutor": (GREEN, "^"),
        "loky": (PINK, "v"),
        "spawn(), cold": (SKY, "D"),
        WARM: (BLUE, "D"),
        FORK: (RED, "P"),
    }
    figure, axes = plt.subplots(figsize=(9.5, 5.4), layout="constrained")
    ends = []
    for name, (colour, marker) in colours.items():
        medians = {n: arms[name]["median_s"] for n, arms in workers.items() if name in arms}
        axes.plot(list(medians), list(medians.values()), color=colour, marker=marker)
        slope = result["slope_s_per_worker"].get(name)
        per = "" if slope is None else f", {slope_of(slope)} a worker"
        last = max(medians)
        ends.append((last, medians[last], name + per, colour))
    axes.set(xscale="log", yscale="log", xlabel="number of workers")
    axes.set_ylabel("time until all workers have ended\n(lower is better)")
    axes.set_xticks(list(workers), [str(n) for n in workers])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    times_axis(axes.yaxis)
    axes.grid(axis="y")
    label_ends(axes, ends)
    most = max(workers)
    ours, torchs = (harness.seconds(workers[most][name]["median_s"]) for name in (WARM, SPAWN))
    axes.set_title(
        f"A warm spawn() starts {most} workers in {ours};"
        f" torch.multiprocessing.spawn takes {torchs}"
    )
    missing = not_measured(
        {name: max(n for n in workers if name in workers[n]) for name in colours}, most, "workers"
    )
    note(figure, f"Workers that do nothing, with torch and wandb; {cores(result)}", missing)
    return figure


def slope_of(slope):
    return ("-" if slope < 0 else "+") + harness.seconds(abs(slope))


def worker_start(result):
    parts = {
        "process": ("new process", GREY),
        "torch": ("import torch", ORANGE),
        "wandb": ("import wandb", SKY),
        "loading": ("rest of the script,\nunpickling", GREEN),
        "attach": ("attaching, until the\nfirst row is sent", BLUE),
        "acknowledged": ("the service has\nread the row", RED),
    }
    arms = result["parts_s"]
    figure, axes = plt.subplots(figsize=(9.5, 4.4), layout="constrained")
    whole = {name: sum(took.values()) for name, took in arms.items()}
    longest = max(whole.values())
    for at, (name, took) in enumerate(arms.items()):
        left = 0
        for part, (_, colour) in parts.items():
            axes.barh(at, took[part], left=left, color=colour, height=0.6)
            if took[part] > longest * 0.06:
                axes.text(
                    left + took[part] / 2,
                    at,
                    harness.seconds(took[part]),
                    ha="center",
                    va="center",
                    fontsize=10,
                    color="white" if colour in (BLUE, GREY, GREEN) else "black",
                )
            left += took[part]
        # Bars of some milliseconds show no parts on an axis of a second.
        first = took["attach"] + took["acknowledged"]
        axes.annotate(
            f"{harness.seconds(left)}, of which first row {harness.seconds(first)}",
            (left, at),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            weight="bold" if name == WARM else "normal",
        )
    names = [name.replace(", wandb alone", ",\nwandb alone") for name in arms]
    names = [name if "wandb alone" in name else f"{name},\nwith the patch" for name in names]
    plain_bars(axes, names)
    axes.set_xlim(0, longest * 1.6)
    times_axis(axes.xaxis)
    axes.set_xlabel("time until the worker's first row is with W&B's service (lower is better)")
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for _, colour in parts.values()]
    labels = [label for label, _ in parts.values()]
    axes.legend(handles, labels, loc="lower right", fontsize=9)
    warm, spawned = (harness.seconds(whole[name]) for name in (WARM, f"{SPAWN}, wandb alone"))
    headline(
        figure,
        f"A warm spawn() worker has logged its first row after {warm},"
        f" a spawned one with wandb alone after {spawned}",
    )
    note(figure, f"One worker, with torch and wandb; {cores(result)}")
    return figure


def plain_bars(axes, names):
    """Name horizontal bars, the first one on top."""
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def memory(result):
    moments = {"logged": "after its first row", "collected": "after a garbage collection"}
    colours = {SPAWN: GREY, FORK: RED, WARM: BLUE}
    figure, axes = plt.subplots(figsize=(9.5, 3.8), layout="constrained")
    places = []
    for when, says in moments.items():
        for name, colour in colours.items():
            arm = result["moments"][when].get(name)
            if arm is None:
                continue
            had = arm["median_bytes"]["private"]
            axes.barh(len(places), had / 1e6, color=colour, height=0.6)
            axes.annotate(
                harness.megabytes(had),
                (had / 1e6, len(places)),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                weight="bold" if colour == BLUE else "normal",
            )
            places.append(f"{name},\n{says}")
    plain_bars(axes, places)
    axes.margins(x=0.12)
    axes.set_xlabel("private memory of one worker in MB (lower is better)")
    logged = result["moments"]["logged"]
    warm, spawned = (
        harness.megabytes(logged[name]["median_bytes"]["private"]) for name in (WARM, SPAWN)
    )
    axes.set_title(f"A warm spawn() worker has {warm} of its own; a spawned one has {spawned}")
    missing = [name for name in colours if name not in logged]
    note(
        figure,
        f"With torch and wandb; {cores(result)}",
        "The rest of a worker's memory is shared with other processes",
        f"Not measured: {', '.join(missing)}" if missing else "",
    )
    return figure


def payload(result):
    sizes = [one for one in result["sizes"] if one["items"] == "nested"]
    keys = [one["keys"] for one in sizes]
    figure, panels = plt.subplots(1, 3, figsize=(12.5, 4.7), layout="constrained", sharex=True)
    # Ours is dashed: it and the dict are often one line.
    styles = {
        "dict": (ORANGE, "o", "-"),
        "dict(wandb.config)": (GREY, "s", "-"),
        "wandb.config": (BLUE, "D", "--"),
    }
    for axes, what in zip(panels, ("bytes", "dumps", "loads")):
        for name, (colour, marker, line) in styles.items():
            if name not in sizes[0][what]:
                continue
            ys = [one[what][name] for one in sizes]
            if what != "bytes":
                ys = [arm["median_s"] for arm in ys]
            label = ("with the patch: " if name == "wandb.config" else "") + name
            axes.plot(keys, ys, color=colour, marker=marker, linestyle=line, label=label)
        axes.set(xscale="log", yscale="log", xlabel="number of keys")
        counts_axis(axes.xaxis)
        axes.set_xticks(keys)
        axes.grid(axis="y")
        axes.legend(fontsize=10, loc="upper left")
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * 6)  # room for the legend
        if what == "bytes":
            axes.set_title("size of the pickle")
            axes.set_ylabel("bytes (lower is better)")
            counts_axis(axes.yaxis)
        else:
            axes.set_title(f"time of pickle.{what}()")
            axes.set_ylabel("time (lower is better)")
            times_axis(axes.yaxis)
    more = max(one["bytes"]["wandb.config"] - one["bytes"]["dict"] for one in sizes)
    ratio = sizes[-1]["dumps"]["wandb.config"]["of dict(wandb.config)"]
    headline(
        figure,
        f"A pickled config is {more} bytes larger than a dict;"
        f" at {keys[-1]:,} keys, pickling it takes {ratio:.2f} of dict(wandb.config)'s time",
    )
    note(
        figure,
        f"Numbers, short strings and nested dicts; {cores(result)}",
        "wandb alone has no line: its config can't be loaded from a pickle",
        "dict(wandb.config) is pickled only: its pickle is that of a dict",
    )
    return figure


def config_reads(result):
    alone, ours = "wandb.config, wandb alone", "wandb.config, with the patch"
    dunder = "hasattr(), dunder name"
    reads = {read: arms for read, arms in result["reads"].items() if read != dunder}
    figure, panels = plt.subplots(
        1, len(reads), figsize=(12, 4.4), layout="constrained", sharey=True, sharex=True
    )
    names = list(reads["config.lr"])
    for axes, (read, arms) in zip(panels, reads.items()):
        for at, name in enumerate(names):
            if name not in arms:
                axes.text(1.2, at, "not supported", va="center", fontsize=9, color=GREY)
                continue
            ratio = arms[name]["of " + alone]
            colour = {alone: BLACK, ours: BLUE}.get(name, SKY)
            # From 1, to the left for what is faster and to the right for what is slower.
            axes.barh(at, ratio - 1, left=1, color=colour, height=0.6)
            axes.plot(ratio, at, "|", color=colour, markersize=11)
            axes.annotate(
                f"{harness.figure(ratio)} ({harness.seconds(arms[name]['median_s'])})"
                if name in (alone, ours)
                else harness.figure(ratio),
                (max(ratio, 1), at),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                ha="left",
                fontsize=9,
                weight="bold" if name == ours else "normal",
            )
        axes.set_xscale("log")
        axes.set_xlim(0.008, 2000)
        axes.set_xticks([0.01, 1, 100], ["0.01", "1", "100"])
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.axvline(1, color=BLACK, linewidth=0.8)
        axes.set_title(read)
        axes.set_xlabel("ratio to wandb alone\n(lower is better)")
    for axes in panels:
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    ratios = [arms[ours]["of " + alone] for arms in reads.values()]
    headline(
        figure,
        "Reading a config takes"
        f" {min(ratios):.2f} to {max(ratios):.2f} of the time with wandb alone",
    )
    note(
        figure,
        f"Bars to the left of 1 are faster, bars to the right are slower; {cores(result)}",
        f"{dunder}: see the table",
    )
    return figure


def startup(result):
    names = {
        "none": ("no .pth file", GREY),
        "wandb_ddp_patch": ("this package's\nwandb_ddp_patch.pth", BLUE),
        "setuptools": ("setuptools'\ndistutils-precedence.pth", ORANGE),
        "coverage": ("coverage's .pth file", PINK),
    }
    over = {name: s for name, s in result["over_empty_s"].items() if name in names}
    figure, axes = plt.subplots(figsize=(9.5, 3.4), layout="constrained")
    for at, (name, value) in enumerate(over.items()):
        axes.barh(at, value * 1e3, color=names[name][1], height=0.6)
        axes.annotate(
            f"{value * 1e3:+.2f} ms",
            (max(value, 0) * 1e3, at),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            weight="bold" if name == "wandb_ddp_patch" else "normal",
        )
    plain_bars(axes, [names[name][0] for name in over])
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.margins(x=0.15)
    axes.set_xlabel("milliseconds more than with an empty .pth file (lower is better)")
    axes.set_title(
        f"The start-up file adds {over['wandb_ddp_patch'] * 1e3:.2f} ms to the start of Python;"
        f" that of setuptools adds {over['setuptools'] * 1e3:.2f} ms"
    )
    missing = [names[name][0] for name in names if name not in over]
    starts = result["arms"]["wandb_ddp_patch"]["rounds"]
    note(
        figure,
        f"{starts} starts of each; {cores(result)}",
        f"Not measured: {', '.join(missing)}" if missing else "",
    )
    return figure


def logging_rate(result):
    figure, panels = plt.subplots(
        1, 2, figsize=(11.5, 5.2), layout="constrained", sharey=True, sharex=True
    )
    colours = {"wandb alone": (BLACK, "o", "-"), "with the patch": (BLUE, "D", "--")}
    last = {}
    for axes, method in zip(panels, ("fork", "spawn")):
        cases = [case for case in result["cases"] if case["method"] == method]
        names = dict.fromkeys(name for case in cases for name in case["arms"])
        for name in names:
            colour, marker, line = colours.get(name, (GREEN, "^", "-"))
            rows = [case["rows"] for case in cases if name in case["arms"]]
            last[name] = max(rows)
            arms = [case["arms"][name] for case in cases if name in case["arms"]]
            ys = [arm["median_s"] for arm in arms]
            label = name
            many = [(x, y) for x, y in zip(rows, ys) if x >= 1000]
            if len(many) > 1:
                label += f", {slope_of(harness.slope(*zip(*many)))} a row"
            axes.plot(rows, ys, color=colour, marker=marker, linestyle=line, label=label)
            for x, y, arm in zip(rows, ys, arms):
                if arm["arrived"] < x:
                    axes.annotate(
                        f"{x - arm['arrived']:,} lost",
                        (x, y),
                        xytext=(6, -12),
                        textcoords="offset points",
                        fontsize=9,
                        color=colour,
                    )
        axes.set(xscale="log", yscale="log", xlabel="number of rows (calls of log())")
        counts_axis(axes.xaxis)
        axes.set_xticks(sorted({case["rows"] for case in cases}))
        times_axis(axes.yaxis)
        axes.grid(axis="y")
        axes.set_title(f"a {method}ed worker")
        axes.legend(fontsize=10, loc="upper left")
    panels[0].set_ylabel("time from the worker's start to its end\n(lower is better)")
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(low, high * 4)  # room for the legend
    ratios = " and ".join(dict.fromkeys(f"{ratio:.2f}" for ratio in result["by_part"].values()))
    lost = sum(1 for name, *_ in result["lost"] if name == "with the patch")
    headline(
        figure,
        f"With the patch, a worker's row takes {ratios} of the time with wandb alone"
        + (f"; rows were lost in {lost} cases" if lost else ", and no row is lost"),
    )
    note(
        figure,
        f"Times a row are from 1,000 rows on; {cores(result)}",
        not_measured(last, max(last.values()), "rows"),
        "wandb alone logs nothing from a worker on 0.12.21",
    )
    return figure


PLOTS = launch, worker_start, memory, payload, config_reads, startup, logging_rate


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="of the results of --quick")
    args = parser.parse_args()
    for draw in PLOTS:
        name = draw.__name__
        result = harness.load(name, args.quick)
        if result is None:
            print(f"no result yet: {name}")
            continue
        if "no plot" in result:
            print(f"no plot: {name}: {result['no plot']}")
            continue
        figure = draw(result)
        folder = harness.results(args.quick)
        figure.savefig(folder / f"{name}.png")
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        plt.close(figure)
        print(f"drawn: {name}.png, {name}.svg")


if __name__ == "__main__":
    main()
