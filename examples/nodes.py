"""Run train_nodes.py on two machines that are parts of this one, and count the rows.

In a clone, in a fresh environment, as root on Linux:

    pip install ".[demo]" && python examples/nodes.py

"make demo-nodes" does both. Each machine has its own network, with a cable between the two, and
its own temporary folder. These are Linux namespaces, which only root can create. With --cut, the
cable is out for some seconds in the middle of the training.
https://man7.org/linux/man-pages/man8/ip-netns.8.html
"""

import argparse
import collections
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from wandb_ddp_patch import runfile

HERE = Path(__file__).resolve().parent
NODES = [f"wandb-ddp-patch-{os.getpid()}-{n}" for n in range(2)]
ADDRESSES = ["10.78.0.1", "10.78.0.2"]


def ip(*command, quiet=False):
    output = subprocess.DEVNULL if quiet else None
    subprocess.run(["ip", *command], check=not quiet, stderr=output)


@contextlib.contextmanager
def machines():
    """Two machines, with a cable between them."""
    try:
        for node in NODES:
            ip("netns", "add", node)
        ends = [f"wddp{os.getpid()}{end}" for end in "ab"]
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for node, end, address in zip(NODES, ends, ADDRESSES):
            ip("link", "set", end, "netns", node)
            ip("-n", node, "link", "set", end, "name", "eth0")
            ip("-n", node, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", node, "link", "set", "eth0", "up")
            ip("-n", node, "link", "set", "lo", "up")
        yield
    finally:
        for node in NODES:
            ip("netns", "delete", node, quiet=True)


def start(number, folder, arguments):
    """Start torchrun on a machine, with two workers."""
    own, other = (folder / f"tmp{n}" for n in (number, 1 - number))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2"]
    torchrun += [f"--node-rank={number}", f"--master-addr={ADDRESSES[0]}", "--master-port=29500"]
    command = [*torchrun, str(HERE / "train_nodes.py"), *arguments]
    # The other machine's temporary folder is hidden, so that nothing in it can be used.
    hidden = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(other)]
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    env.update(WANDB_MODE="offline", WANDB_SILENT="true", TMPDIR=str(own))
    return subprocess.Popen(
        ["ip", "netns", "exec", NODES[number], *hidden, *command], cwd=folder, env=env
    )


def cut(seconds, folder, processes):
    """Pull the cable out for a while, once rows have arrived."""
    while not runfile.find(str(folder)) and all(p.poll() is None for p in processes):
        time.sleep(0.2)
    time.sleep(2)
    print(f"The cable is out for {seconds:g} s", flush=True)
    ip("-n", NODES[0], "link", "set", "eth0", "down")
    time.sleep(seconds)
    ip("-n", NODES[0], "link", "set", "eth0", "up")


def count(folder):
    """Print, for each rank, the rows that are in the run; return whether all are."""
    (file,) = runfile.find(str(folder))
    rows, logged = collections.Counter(), {}
    for row in runfile.history(file):
        for key, value in row.items():
            kind, _, rank = key.partition(" of rank ")
            if rank:
                rows[rank] += 1
            if kind == "rows" and rank:
                logged[rank] = int(value)
    for rank in sorted(rows):
        print(f"rank {rank}: {rows[rank]} of {logged.get(rank)} rows")
    print(f"All in one run: {os.path.dirname(file)}")
    return len(rows) == 4 and all(logged.get(rank) == rows[rank] for rank in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cut", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--epochs", help="by default 5, or 40 with --cut")
    args = parser.parse_args()
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        sys.exit("Machines that are parts of this one take Linux, and root: sudo make demo-nodes.")
    folder = Path(tempfile.mkdtemp(prefix="nodes-"))
    for n in range(2):
        (folder / f"tmp{n}").mkdir()
    arguments = ["--epochs", args.epochs or ("40" if args.cut else "5")]
    arguments += ["--pause", "0.02" if args.cut else "0"]
    with machines():
        processes = [start(n, folder, arguments) for n in range(2)]
        try:
            if args.cut:
                cut(args.cut, folder, processes)
            failed = [process.wait() for process in processes]
        finally:
            for process in processes:
                process.kill()
    sys.exit(1 if any(failed) or not count(folder) else 0)


if __name__ == "__main__":
    main()
