#!/usr/bin/env bash
# In a virtual environment, of venv or of virtualenv 20.35.4, CPython up to 3.14 executes each
# "import" line of a .pth file twice in every process: site.py goes through the environment's
# site-packages once for the environment and once more for its prefix. The same file in the user's
# site-packages is run once. So a start-up file that adds a finder, a patch or a handler adds two,
# unless it looks whether it has been there. Python 3.15 runs it once.
# Seen, on 3.8 to 3.14: "user's site-packages: 1", "virtualenv: 2". Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet virtualenv==20.35.4
"$folder/venv/bin/virtualenv" --quiet --no-download "$folder/made"
line='import sys; sys.runs = getattr(sys, "runs", 0) + 1'
ask='import sys; print(sys.runs)'
# The interpreter itself, which is in no virtual environment, and the user's folder of it.
base=$(python3 -c 'import sys; print(sys._base_executable)')
export PYTHONUSERBASE="$folder/user"
user=$("$base" -m site --user-site)
mkdir -p "$user"
echo "$line" > "$user/count.pth"
for site in "$folder"/made/lib/python3*/site-packages; do
    echo "$line" > "$site/count.pth"
done
seen="user's site-packages: $("$base" -c "$ask")
virtualenv: $("$folder/made/bin/python" -c "$ask")"
echo "$seen"
[ "$seen" = $'user\'s site-packages: 1\nvirtualenv: 2' ]
