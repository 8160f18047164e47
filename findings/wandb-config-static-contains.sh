#!/usr/bin/env bash
# wandb 0.31.0: run.config_static, the read-only view of a run's config that can be pickled, has
# keys() and [], but no __contains__ or __iter__. So Python falls back to the old protocol of
# sequences and asks for the item 0: `"lr" in run.config_static` raises KeyError: 0, also for a key
# that is there, and so does a loop over it.
# Seen: "KeyError(0)" twice. Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet wandb==0.31.0
cat > "$folder/static.py" << 'END'
import wandb

run = wandb.init(project="p", mode="offline", config={"lr": 0.5})
view = run.config_static
assert view["lr"] == 0.5 and list(view.keys()) == ["lr"]
for use in (lambda: "lr" in view, lambda: list(view)):
    try:
        print(use())
    except Exception as error:
        print(repr(error))
run.finish()
END
cd "$folder"
seen=$(WANDB_SILENT=true timeout 60 venv/bin/python static.py)
echo "$seen"
[ "$seen" = $'KeyError(0)\nKeyError(0)' ]
