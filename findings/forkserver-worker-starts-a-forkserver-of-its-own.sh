#!/usr/bin/env bash
# The docstring of multiprocessing.forkserver.ForkServer.ensure_running() says that a child process
# usually reuses the forkserver that its parent has started. A worker from the forkserver does not:
# it knows the server's address, but not its process number, and so it starts another forkserver
# for its own workers. That one imports the main module again, as does each further level. The
# same holds for multiprocess 0.70.19, which has the code of the standard library.
# Seen with Python 3.11.7, and the standard library's also with 3.14.10 and 3.15.2: "another
# forkserver", both times. Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet multiprocess==0.70.19
cat > "$folder/nested.py" << 'END'
import importlib
import os
import sys


def inner(queue):
    queue.put(os.getppid())


def outer(package, queue):
    process = importlib.import_module(package).get_context("forkserver").Process(
        target=inner, args=(queue,)
    )
    process.start()
    process.join()
    queue.put(os.getppid())


if __name__ == "__main__":
    for package in sys.argv[1:]:
        context = importlib.import_module(package).get_context("forkserver")
        queue = context.Queue()
        process = context.Process(target=outer, args=(package, queue))
        process.start()
        same = queue.get(timeout=60) == queue.get(timeout=60)
        process.join()
        print(f"{package}: {'the same' if same else 'another'} forkserver")
END
seen=$("$folder/venv/bin/python" "$folder/nested.py" multiprocessing multiprocess)
echo "$seen"
[ "$seen" = $'multiprocessing: another forkserver\nmultiprocess: another forkserver' ]
