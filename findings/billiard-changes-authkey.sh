#!/usr/bin/env bash
# billiard 4.3.2 (Celery's pools) puts its own process object in the place of
# multiprocessing.current_process(), in the standard library's module, in each worker that it forks.
# That object has an authkey of billiard's own. So a worker of billiard's and the process that
# forked it have different keys, and nothing of multiprocessing's that proves itself by the key
# (managers, Listener and Client, handing over of file descriptors) works between the two. A fork
# by multiprocessing itself keeps the key.
# Seen: "multiprocessing: True", "billiard: False". Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet billiard==4.3.2
cat > "$folder/keys.py" << 'END'
import multiprocessing

import billiard


def key(_=None):
    return bytes(multiprocessing.current_process().authkey)


if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(1) as pool:
        print("multiprocessing:", pool.apply(key) == key())
    pool = billiard.get_context("fork").Pool(1)
    print("billiard:", pool.apply(key) == key())
    pool.terminate()
END
seen=$("$folder/venv/bin/python" "$folder/keys.py")
echo "$seen"
[ "$seen" = $'multiprocessing: True\nbilliard: False' ]
