#!/usr/bin/env bash
# wandb 0.16.6: wandb.teardown(), which W&B's guide to distributed training has every process call
# at its end, ends W&B's service for the process that owns the run, too, if a forked worker calls
# it: what the owner logs afterwards is lost. The worker has only attached to that service, but
# sends it the message to end itself all the same.
# Seen: "service after the worker's teardown: gone". Fails if it is still there.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet wandb==0.16.6 setuptools==80.9.0 psutil==7.1.3
cat > "$folder/teardown.py" << 'END'
import os
import time

import psutil
import wandb

run = wandb.init(project="p", mode="offline")
(service,) = psutil.Process().children()
pid = os.fork()
if pid == 0:
    run.log({"worker": 1})
    wandb.teardown() if hasattr(wandb, "teardown") else wandb._teardown()
    os._exit(0)
os.waitpid(pid, 0)
time.sleep(5)
gone = not service.is_running() or service.status() == psutil.STATUS_ZOMBIE
print("service after the worker's teardown:", "gone" if gone else "there")
os._exit(0)
END
cd "$folder"
seen=$(WANDB_SILENT=true timeout 60 venv/bin/python -W ignore teardown.py)
echo "$seen"
[ "$seen" = "service after the worker's teardown: gone" ]
