#!/usr/bin/env bash
# wandb 0.31.0: a worker that has changed its current folder before it first uses the run (Hydra,
# Ray and submitit do that) puts what it logs as media below its own folder. Attaching gives the
# worker new settings, whose root is the current folder; the run's service, which is told only the
# file's name, looks below the owner's. The row names the file, its digest and its size, and both
# processes exit with 0.
# Seen: the row is in the run, the file is below the worker's folder and nowhere in the run's.
# Fails if the file is in the run's folder.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet wandb==0.31.0
mkdir "$folder/owner" "$folder/worker"
cat > "$folder/media.py" << 'END'
import multiprocessing
import os

import wandb


def log(run):
    os.chdir("../worker")
    run.log({"page": wandb.Html("<p>a page</p>")})


if __name__ == "__main__":
    run = wandb.init(project="p", mode="offline")
    worker = multiprocessing.get_context("spawn").Process(target=log, args=(run,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    run.finish()
END
cd "$folder/owner"
WANDB_SILENT=true timeout 120 ../venv/bin/python ../media.py
rows=$(grep -a -c 'media/html/page_0_' wandb/offline-run-*/*.wandb)
here=$(find wandb/offline-run-*/files -name '*.html' | wc -l)
there=$(find ../worker -name '*.html' | wc -l)
echo "named in the run: $rows, in the run's folder: $here, below the worker's folder: $there"
[ "$rows" -ge 1 ] && [ "$here" -eq 0 ] && [ "$there" -eq 1 ]
