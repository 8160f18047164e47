"""A script for test_concurrent_attach.py, on any release: many workers attach to a busy service.

Usage: attach_workers.py METHOD WORKERS SECONDS. The service is stopped for so many seconds
when the workers start. Prints how many ended well.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time

import wandb

import wandb_ddp_patch  # noqa: F401

ROWS = 10


def work(run, n, go):
    go.wait()
    for i in range(ROWS):
        run.log({f"worker {n}": i})


def children(pid):
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(name))
    return found


def tree(pid):
    return [grandchild for child in children(pid) for grandchild in [child, *tree(child)]]


def main():
    method, workers, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    before = set(tree(os.getpid()))
    run = wandb.init(mode="offline", project="p")
    services = set(tree(os.getpid())) - before
    context = multiprocessing.get_context(method)
    go = context.Event()
    processes = [context.Process(target=work, args=(run, n, go)) for n in range(workers)]
    for process in processes:
        process.start()
    time.sleep(1)
    for pid in services if seconds else ():
        os.kill(pid, signal.SIGSTOP)

    def go_on():
        time.sleep(seconds)
        for pid in services:
            os.kill(pid, signal.SIGCONT)

    threading.Thread(target=go_on).start()
    go.set()
    for process in processes:
        process.join()
    codes = [process.exitcode for process in processes]
    with open("codes", "w") as file:
        file.write(str({code: codes.count(code) for code in set(codes)}))
    wandb.finish()


if __name__ == "__main__":
    main()
