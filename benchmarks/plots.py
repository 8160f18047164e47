"""Draw the results: a PNG and an SVG for each, beside their JSON.

Colours are Okabe and Ito's, which colour-blind people can tell apart
(https://jfly.uni-koeln.de/color/); ours is always the same blue. The same results give
the same files.
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

plt.rcParams.update(
    {
        "figure.dpi": 150,
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


def growth(xs, ys):
    """Name the slope on logarithmic axes, the power of x that y grows with.

    From 1,000 on: before, one mostly sees what is the same for all sizes.
    """
    points = [(math.log(x), math.log(y)) for x, y in zip(xs, ys) if x >= 1000 and y > 0]
    if len(points) < 2:
        return ""
    return f", slope {harness.slope(*zip(*points)):.2f}"


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
        "torch.multiprocessing.spawn": (BLACK, "o"),
        "start_processes, forkserver": (ORANGE, "s"),
        "ProcessPoolExecutor": (GREEN, "^"),
        "loky": (PINK, "v"),
        "spawn(), cold": (SKY, "D"),
        "spawn(), warm": (BLUE, "D"),
        "start_processes, fork": (RED, "P"),
    }
    figure, axes = plt.subplots(figsize=(9.5, 5.2), layout="constrained")
    ends = []
    for name, (colour, marker) in colours.items():
        medians = {n: arms[name]["median_s"] for n, arms in workers.items() if name in arms}
        axes.plot(list(medians), list(medians.values()), color=colour, marker=marker)
        slope = result["slope_s_per_worker"].get(name)
        per = "" if slope is None else f", {slope_of(slope)} a worker"
        last = max(medians)
        ends.append((last, medians[last], name + per, colour))
    axes.set(xscale="log", yscale="log", xlabel="workers", ylabel="until all have ended")
    axes.set_xticks(list(workers), [str(n) for n in workers])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    times_axis(axes.yaxis)
    axes.grid(axis="y")
    label_ends(axes, ends)
    axes.set_title(f"Starting workers that do nothing, with torch and wandb ({cores(result)})")
    return figure


def slope_of(slope):
    return ("-" if slope < 0 else "+") + harness.seconds(abs(slope))


def worker_start(result):
    parts = {
        "process": ("process", GREY),
        "torch": ("import torch", ORANGE),
        "wandb": ("import wandb", SKY),
        "loading": ("loading, unpickling", GREEN),
        "attach": ("attach: first row", BLUE),
        "acknowledged": ("acknowledged", RED),
    }
    arms = result["parts_s"]
    longest = max(sum(took.values()) for took in arms.values())
    short = [name for name, took in arms.items() if sum(took.values()) < longest / 5]
    long = [name for name in arms if name not in short]
    figure, panels = plt.subplots(
        2, figsize=(9.5, 5.2), layout="constrained", height_ratios=[len(long), len(short)]
    )

    def bar(axes, at, took, least):
        left, whole = 0, sum(took.values())
        for part, (_, colour) in parts.items():
            axes.barh(at, took[part], left=left, color=colour, height=0.55)
            if took[part] > least:
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
        axes.annotate(
            harness.seconds(whole),
            (left, at),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            weight="bold",
        )

    for one, names in zip(panels, (long, short)):
        over = max(sum(arms[name].values()) for name in names)
        for at, name in enumerate(names):
            bar(one, at, arms[name], over * 0.06)
        one.set_yticks(range(len(names)), [name.replace(", wandb", ",\nwandb") for name in names])
        one.invert_yaxis()
        one.set_xlim(0, over * 1.1)
        one.spines["left"].set_visible(False)
        one.tick_params(axis="y", length=0)
        times_axis(one.xaxis)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for _, colour in parts.values()]
    labels = [label for label, _ in parts.values()]
    figure.legend(handles, labels, ncols=6, loc="outside lower center", fontsize=9)
    panels[0].set_title(f"Where the time goes until a worker's first row is in ({cores(result)})")
    return figure


def memory(result):
    moments = {"logged": "after its first row", "collected": "after a garbage collection"}
    colours = {"torch.multiprocessing.spawn": GREY, "spawn(), warm": BLUE}
    figure, axes = plt.subplots(figsize=(9.5, 3), layout="constrained")
    places = []
    for when, says in moments.items():
        for name, colour in colours.items():
            arm = result["moments"][when][name]
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
    axes.set_yticks(range(len(places)), places)
    axes.invert_yaxis()
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.12)
    axes.set_xlabel("megabytes that only this process has; the rest it shares with others")
    axes.set_title(f"Private memory of one worker, with torch and wandb ({cores(result)})")
    return figure


def payload(result):
    sizes = [one for one in result["sizes"] if one["items"] == "nested"]
    keys = [one["keys"] for one in sizes]
    figure, panels = plt.subplots(1, 3, figsize=(12.5, 4.4), layout="constrained")
    # Ours is dashed: it and the dict are often one line.
    styles = {
        "dict": (ORANGE, "o", "-"),
        "dict(wandb.config)": (GREY, "s", "-"),
        "Config": (BLUE, "D", "--"),
    }
    for axes, what in zip(panels, ("bytes", "dumps", "loads")):
        for name, (colour, marker, line) in styles.items():
            if name not in sizes[0][what]:
                continue
            ys = [one[what][name] for one in sizes]
            if what != "bytes":
                ys = [arm["median_s"] for arm in ys]
            label = name + growth(keys, ys)
            axes.plot(keys, ys, color=colour, marker=marker, linestyle=line, label=label)
        axes.set(xscale="log", yscale="log", xlabel="keys")
        counts_axis(axes.xaxis)
        axes.set_xticks(keys)
        axes.grid(axis="y")
        axes.legend(fontsize=10, loc="upper left")
        if what == "bytes":
            axes.set_title("Bytes of a pickled config")
            counts_axis(axes.yaxis)
        else:
            axes.set_title(f"Time of pickle.{what}()")
            times_axis(axes.yaxis)
    figure.supxlabel(f"{cores(result)}; slopes are from 1,000 keys on", fontsize=10, color=GREY)
    return figure


def config_reads(result):
    upstream, ours = "wandb.config, upstream", "wandb.config, patched"
    reads = {read: arms for read, arms in result["reads"].items() if read != "hasattr, dunder"}
    figure, panels = plt.subplots(
        1, len(reads), figsize=(11, 4), layout="constrained", sharey=True, sharex=True
    )
    names = list(reads["config.lr"])
    for axes, (read, arms) in zip(panels, reads.items()):
        for at, name in enumerate(names):
            if name not in arms:
                axes.text(1.2, at, "can't", va="center", fontsize=9, color=GREY)
                continue
            ratio = arms[name]["of " + upstream]
            colour = {upstream: BLACK, ours: BLUE}.get(name, SKY)
            # From 1, to the left for what is faster and to the right for what is slower.
            axes.barh(at, ratio - 1, left=1, color=colour, height=0.6)
            axes.plot(ratio, at, "|", color=colour, markersize=11)
            axes.annotate(
                f"{harness.figure(ratio)} ({harness.seconds(arms[name]['median_s'])})"
                if name in (upstream, ours)
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
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    figure.supxlabel("time, of upstream's: to the left is faster", fontsize=11)
    figure.suptitle(
        f"Reading a config, relative to wandb's own ({cores(result)})", x=0.01, ha="left"
    )
    return figure


def startup(result):
    names = {
        "none": ("no .pth file", GREY),
        "wandb_ddp_patch": ("wandb_ddp_patch.pth", BLUE),
        "setuptools": ("distutils-precedence.pth\nof setuptools", ORANGE),
        "coverage": ("coverage's .pth", PINK),
    }
    over = {name: s for name, s in result["over_empty_s"].items() if name in names}
    figure, axes = plt.subplots(figsize=(9.5, 3), layout="constrained")
    for at, (name, value) in enumerate(over.items()):
        axes.barh(at, value * 1e3, color=names[name][1], height=0.6)
        axes.annotate(
            f"{value * 1e3:+.2f} ms",
            (max(value, 0) * 1e3, at),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(over)), [names[name][0] for name in over])
    axes.invert_yaxis()
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.12)
    axes.set_xlabel("milliseconds over an interpreter with an empty .pth file")
    axes.set_title(f"What a start-up file costs each interpreter ({cores(result)})")
    return figure


def logging_rate(result):
    figure, panels = plt.subplots(
        1, 2, figsize=(11.5, 4.6), layout="constrained", sharey=True, sharex=True
    )
    colours = {"upstream": (BLACK, "o", "-"), "patched": (BLUE, "D", "--")}
    for axes, method in zip(panels, ("fork", "spawn")):
        cases = [case for case in result["cases"] if case["method"] == method]
        names = dict.fromkeys(name for case in cases for name in case["arms"])
        for name in names:
            colour, marker, line = colours.get(name, (GREEN, "^", "-"))
            rows = [case["rows"] for case in cases if name in case["arms"]]
            arms = [case["arms"][name] for case in cases if name in case["arms"]]
            ys = [arm["median_s"] for arm in arms]
            label = name + growth(rows, ys)
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
        axes.set(xscale="log", yscale="log", xlabel="rows; slopes are from 1,000 on")
        counts_axis(axes.xaxis)
        axes.set_xticks(sorted({case["rows"] for case in cases}))
        times_axis(axes.yaxis)
        axes.grid(axis="y")
        axes.set_title(f"A {method}ed worker, from its start to its end")
        axes.legend(fontsize=10, loc="upper left")
    low, high = panels[0].get_ylim()
    panels[0].set_ylim(low, high * 4)  # room for the legend
    figure.suptitle(f"Logging rows through the run ({cores(result)})", x=0.01, ha="left")
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
