#!/usr/bin/env bash
# wandb 0.18.7: in offline mode, run.log() of a Table asks W&B's server for its version, and tries
# again and again where there is none. wandb 0.19.11 returns at once, and so does 0.18.7 with a
# number.
# Seen: "0.18.7 number: 0.0 s", "0.18.7 table: no answer within 15 s", "0.19.11 table: 0.0 s".
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > log.py <<'PYTHON'
import sys
import time

import wandb

run = wandb.init(project="p", mode="offline")
what = wandb.Table(columns=["a"], data=[[1]]) if sys.argv[1] == "table" else 1
begun = time.monotonic()
run.log({"x": what})
print(f"{wandb.__version__} {sys.argv[1]}: {time.monotonic() - begun:.1f} s", flush=True)
run.finish()
PYTHON
# Nobody listens there.
export WANDB_BASE_URL=http://127.0.0.1:9 WANDB_API_KEY=0123456789012345678901234567890123456789
export WANDB_SILENT=true
python3 -m venv 0.18.7
0.18.7/bin/pip install --quiet wandb==0.18.7
python3 -m venv 0.19.11
0.19.11/bin/pip install --quiet wandb==0.19.11
says() {
    timeout 15 "$1/bin/python" log.py "$2" || true
}
number=$(says 0.18.7 number) table=$(says 0.18.7 table) newer=$(says 0.19.11 table)
echo "$number"
echo "${table:-0.18.7 table: no answer within 15 s}"
echo "$newer"
[ -n "$number" ] && [ -z "$table" ] && [ -n "$newer" ]
