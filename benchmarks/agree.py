"""Say whether two runs agree on who wins, wherever two things were compared.

    python benchmarks/agree.py FIRST SECOND     two folders of results

An arm has won against a baseline, or lost, where the 95 % interval of its ratio is on
one side of 1, or, of fewer than three rounds, where one has taken twice as long; else
they are even. Two runs agree where not one says won and the other lost. The exit status
is 1 where they do not.
"""

import argparse
import json
import sys
from pathlib import Path

import harness

MARK = ", 95 %"


def outcomes(value, path=()):
    """Find all ratios in a result: where they are, and how they ended."""
    if isinstance(value, dict):
        for key, below in value.items():
            if key.startswith("of ") and key.endswith(MARK):
                name = key[: -len(MARK)]
                ratio = value[name]
                low, high = below or (ratio / 2, ratio * 2)
                ended = "won" if high < 1 else "lost" if low > 1 else "even"
                yield (*path, name), (ended, ratio)
            elif key != "goals":
                yield from outcomes(below, (*path, key))
    elif isinstance(value, list):
        for one in value:
            if isinstance(one, dict):
                # Of a list of cases, each is known by its own words and numbers.
                names = [str(v) for v in one.values() if isinstance(v, (str, int))]
                yield from outcomes(one, (*path, *names[:2]))


def read(folder):
    found, goals = {}, {}
    for file in sorted(Path(folder).glob("*.json")):
        result = json.loads(file.read_text("utf-8"))
        found.update(outcomes(result, (file.stem,)))
        goals.update({goal["what"].split(" (")[0]: goal["state"] for goal in result["goals"]})
    if not found:
        sys.exit(f"{folder} holds no results")
    return found, goals


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first")
    parser.add_argument("second")
    args = parser.parse_args()
    (first, goals), (second, goals_again) = read(args.first), read(args.second)
    both = first.keys() & second.keys()
    states = {place: (first[place][0], second[place][0]) for place in both}
    opposite = sorted(place for place in both if set(states[place]) == {"won", "lost"})
    same = sum(one == other != "even" for one, other in states.values())
    print(
        f"{len(both)} comparisons: {same} with the same winner,"
        f" {len(both) - same - len(opposite)} even in one or both, {len(opposite)} opposite"
    )
    for place in opposite:
        ratios = " and ".join(harness.ratio(found[place][1]) for found in (first, second))
        print(f"opposite: {', '.join(place)}: {ratios}")
    for what in goals.keys() & goals_again.keys():
        if goals[what] != goals_again[what]:
            print(f"{goals[what]}, then {goals_again[what]}: {what}")
    missing = first.keys() ^ second.keys()
    if missing:
        print(f"in one of them only: {len(missing)} comparisons")
    sys.exit(1 if opposite else 0)


if __name__ == "__main__":
    main()
