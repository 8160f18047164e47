#!/usr/bin/env bash
# wandb 0.31.0: when log() returns in a worker, up to 64 KiB of rows may still be in the worker
# itself. They wait in asyncio's write buffer, because awaiting drain() only waits while that buffer
# is above its high-water mark. A worker that ends by os._exit, as the forks of multiprocessing do,
# takes them along: nothing is said, and everybody exits with 0.
# W&B's service is paused here while the workers log, as a busy machine does for a moment.
# Seen: 416 of the 560 rows are in the run. Fails if all are.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet wandb==0.31.0 psutil==7.1.3
cat > "$folder/barrier.py" << 'END'
import os
import time

import psutil
import wandb

WORKERS, ROWS = 4, 140
run = wandb.init(project="p", mode="offline")
services = psutil.Process().children(recursive=True)
ready, go = os.pipe(), os.pipe()
pids = []
for rank in range(WORKERS):
    pid = os.fork()
    if pid == 0:
        run.log({"first": 1})
        os.write(ready[1], b"x")
        os.read(go[0], 1)
        for n in range(ROWS):
            run.log({"row": n, "name": f"r{rank}n{n}:" + "x" * 300})
        os._exit(0)
    pids.append(pid)
for _ in pids:
    os.read(ready[0], 1)
for service in services:
    service.suspend()
os.write(go[1], b"x" * WORKERS)
for pid in pids:
    assert os.waitpid(pid, 0)[1] == 0  # all rows have been logged
for service in services:
    service.resume()
time.sleep(5)  # the service has all the time it wants
run.finish()
END
cd "$folder"
WANDB_SILENT=true timeout 120 venv/bin/python barrier.py
rows=$(grep -a -o 'r[0-9]n[0-9]*:xx' wandb/offline-run-*/*.wandb | sort -u | wc -l)
echo "$rows of 560 rows"
[ "$rows" -lt 550 ]
