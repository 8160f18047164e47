"""What machines.py decides by what it has measured: its goals, and its cases by name."""

import statistics

import harness

NEW, OLD = "this design", "earlier design"
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
        what = f"the owner's CPU time per remote row, {load}"
        yield paired(what, new, old, 1 / 15, next(words), f"{next(words)}, {OLD}")


def about_steps(found):
    for name in (NEW, OLD):
        if (name, "nobody logs") not in found:
            continue
        alone, remote = found[name, "nobody logs"], found[name, "a remote worker logs"]
        # Steps a second: the time of one is their inverse.
        what = "the owner's compute step with 1,000 remote rows/s" + (
            f", {OLD}" if name == OLD else ""
        )
        yield paired(what, alone, remote, 1.005, None, "nobody logs")
        if name == NEW:
            local = found[name, "a local worker logs"]
            baseline = "a local worker logs as much"
            yield paired(what + ", against local rows", local, remote, 1.005, None, baseline)


def about_latency(found):
    local = [logged for logged, _ in found[NEW, "local"]]
    for trip in ROUND_TRIPS_MS:
        remote = [logged for logged, _ in found[NEW, f"{trip} ms"]]
        rows = (statistics.median(times) / LOG_ROWS for times in (remote, local))
        words = [harness.seconds(row) for row in rows]
        what = f"a remote worker logs a row, {trip} ms network round trip"
        yield paired(what, remote, local, 1.05, words[0], f"{words[1]}, a local worker")


def about_first_rows(found):
    slow, fast = (median(found[NEW, f"{trip} ms"], 0) for trip in ("10", "0"))
    trips = [
        (ten[0] - none[0]) / 0.010 for ten, none in zip(found[NEW, "10 ms"], found[NEW, "0 ms"])
    ]
    what = "a remote worker's first row"
    words = f"{harness.seconds(slow)} at 10 ms", f"{harness.seconds(fast)} at 0 ms"
    interval = harness.interval(trips)
    yield harness.goal(what, statistics.median(trips), 15, *words, interval, "round trips")


def about_questions(found):
    new, old = found[NEW], found.get(OLD)
    beside = f"{harness.seconds(new['longest_of_local_s'])}, a local worker"
    beside += f"; {harness.seconds(old['longest_s'])}, {OLD}" if old else ""
    longest = new["longest_s"]
    what = f"the longest wait for an answer while {new['flooding']} workers log at full speed"
    yield harness.goal(what, longest, 1.0, harness.seconds(longest), beside, unit="s")


def about_connections(found):
    connections = f"{found['connections']:,} connections"
    yield harness.goal(f"rows lost with {connections}", found["lost"], 0, unit="rows")
    what = f"memory that the owner needs for {connections}"
    yield harness.goal(what, found["growth_bytes"] / 1e6, 200, unit="MB")


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
