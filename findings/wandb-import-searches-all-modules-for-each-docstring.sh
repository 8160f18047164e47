#!/usr/bin/env bash
# wandb 0.22.3, with pydantic 2.14.4, looks through all modules of the process some thousand times
# while it is imported: its models take the descriptions of their fields from docstrings, for which
# pydantic asks inspect.getmodule() where each class was defined, and that asks inspect.ismodule()
# about each module that has been imported. So "import wandb" takes 2.5 million such calls, most of
# its time, and the more a script has imported before it, the slower it gets: after torch it takes
# twice as many calls and twice as long (5.3 s instead of 2.5 s, seen once), after sympy 1.6 times
# as many. Where each worker imports both, the order of two lines is worth seconds. 0.23.1 makes a
# twentieth of the calls.
# Seen: calls of inspect.ismodule() by "import wandb", in thousands: 2,566 alone and 4,057
# after sympy; 0.23.1: 103. Fails if the first is less than 1,000, if the second is not 1.5 times as
# many, or if the last is more than a fifth of the first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/count.py" << 'END'
import importlib
import inspect
import sys

for name in sys.argv[1:]:
    importlib.import_module(name)
count, ismodule = 0, inspect.ismodule


def counting(thing):
    global count
    count += 1
    return ismodule(thing)


inspect.ismodule = counting
importlib.import_module("wandb")
print(count // 1000)
END
for version in 0.22.3 0.23.1; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet "wandb==$version" pydantic==2.14.4 sympy==1.14.0
done
cd "$folder"
alone=$(0.22.3/bin/python -W ignore count.py)
after=$(0.22.3/bin/python -W ignore count.py sympy)
later=$(0.23.1/bin/python -W ignore count.py)
echo "0.22.3: $alone thousand, after sympy $after thousand; 0.23.1: $later thousand"
[ "$alone" -ge 1000 ] && [ "$((2 * after))" -ge "$((3 * alone))" ] && [ "$((5 * later))" -le "$alone" ]
