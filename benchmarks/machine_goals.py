"""What machines.py decides by what it has measured: its goals, and its cases by name."""

import statistics

import harness

NEW, OLD = "this build", "the build before"
ROUND_TRIPS_MS = "0", "1", "10"
LOG_ROWS = 2000


def paired(what, ours, baseline, at_most, *words):
    """Decide by the ratio of two arms, round by round."""
    ratios = harness.ratios(ours, baseline)
    interval = harness.interval(ratios)
    return harness.goal(what, statistics.median(ratios), at_most, *words, interval=interval)


def about_processor_time(found):
    for load in dict.fromkeys(load for load, _ in found):
        if (load, OLD) not in found:
            continue
        new, old = found[load, NEW], found[load, OLD]
        words = (harness.seconds(statistics.median(times)) for times in (new, old))
        what = f"the owner's processor time a remote row, {load}"
        yield paired(what, new, old, 1 / 15, next(words), f"{next(words)}, {OLD}")


def about_steps(found):
    for name in (NEW, OLD):
        if (name, "nobody logs") not in found:
            continue
        alone, remote = found[name, "nobody logs"], found[name, "a worker elsewhere logs"]
        # Steps a second: the time of one is their inverse.
        what = "the owner's step at 1,000 remote rows/s" + (f", {OLD}" if name == OLD else "")
        yield paired(what, alone, remote, 1.005, None, "nobody logs")
        if name == NEW:
            local = found[name, "a worker here logs"]
            baseline = "a worker of this machine logs as much"
            yield paired(what + ", to local rows", local, remote, 1.005, None, baseline)


def about_latency(found):
    local = [logged for logged, _ in found[NEW, "local"]]
    for trip in ROUND_TRIPS_MS:
        remote = [logged for logged, _ in found[NEW, f"{trip} ms"]]
        rows = (statistics.median(times) / LOG_ROWS for times in (remote, local))
        words = [harness.seconds(row) for row in rows]
        what = f"a remote worker logs a row, {trip} ms round trip"
        yield paired(what, remote, local, 1.05, words[0], f"{words[1]}, local")


def about_first_rows(found):
    slow, fast = (median(found[NEW, f"{trip} ms"], 0) for trip in ("10", "0"))
    trips = [
        (ten[0] - none[0]) / 0.010 for ten, none in zip(found[NEW, "10 ms"], found[NEW, "0 ms"])
    ]
    what = "round trips of a remote worker's first row"
    words = f"{harness.seconds(slow)} at 10 ms", f"{harness.seconds(fast)} at 0 ms"
    yield harness.goal(what, statistics.median(trips), 15, *words, harness.interval(trips))


def about_questions(found):
    new, old = found[NEW], found.get(OLD)
    beside = f"{harness.seconds(new['longest_of_local_s'])}, local"
    beside += f"; {harness.seconds(old['longest_s'])}, {OLD}" if old else ""
    longest = new["longest_s"]
    what = f"the longest answer while {new['flooding']} workers flood, s"
    yield harness.goal(what, longest, 1.0, harness.seconds(longest), beside)


def about_connections(found):
    each = f"of {found['connections']:,} connections"
    yield harness.goal(f"rows lost {each}", found["lost"], 0)
    yield harness.goal(f"the owner's growth {each}, MB", found["growth_bytes"] / 1e6, 200)


def median(pairs, number):
    return statistics.median(pair[number] for pair in pairs)


def of_rows(found, rows):
    return {
        f"{line}, {name}": {
            "row_s": median(pairs, 0) / rows,
            "arrived_row_s": median(pairs, 1) / rows,
        }
        for (name, line), pairs in found.items()
    }


def named(found):
    return {", ".join(arm): values for arm, values in found.items()}
