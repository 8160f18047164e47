"""A wire between two machines that are none: delay, loss, and cuts, for every packet.

Usage: wire.py NAMESPACE NAMESPACE. Makes a network device in each namespace, with the
addresses 10.77.0.1 and 10.77.0.2, and carries their packets. Reads commands, a line each:
"delay SECONDS" and "loss SHARE", each way, "cut" and "join". Says "ready".

It does what tc's netem would do, which not every kernel has.
https://www.kernel.org/doc/html/latest/networking/tuntap.html
"""

import collections
import contextlib
import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


def device(number, namespace):
    """Make a network device in a namespace; return the descriptor of its packets."""
    name = f"wire{os.getpid()}-{number}"
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    run = ["ip", "-n", namespace]
    for command in (
        ["ip", "link", "set", name, "netns", namespace],
        [*run, "link", "set", name, "name", "eth0"],
        [*run, "address", "add", f"10.77.0.{number}/24", "dev", "eth0"],
        [*run, "link", "set", "eth0", "up"],
        [*run, "link", "set", "lo", "up"],
        [*run, "route", "add", "default", "dev", "eth0"],
    ):
        subprocess.run(command, check=True)
    return descriptor


def main():
    ends = [device(number, name) for number, name in enumerate(sys.argv[1:3], 1)]
    across = dict(zip(ends, reversed(ends)))
    under_way = collections.deque()  # when it is due, where to, what
    said = {"delay": 0.0, "loss": 0.0, "cut": False}
    chance = random.Random(0)
    print("ready", flush=True)
    while True:
        wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        ready, _, _ = select.select([0, *ends], [], [], wait)
        if 0 in ready:
            line = sys.stdin.readline().split()
            if not line:
                return
            if len(line) == 2:
                said[line[0]] = float(line[1])
            else:
                said["cut"] = line[0] == "cut"
            print("done", flush=True)
        for end in ends:
            if end not in ready:
                continue
            for packet in packets(end):
                if not said["cut"] and chance.random() >= said["loss"]:
                    under_way.append((time.monotonic() + said["delay"], across[end], packet))
        while under_way and under_way[0][0] <= time.monotonic():
            _, end, packet = under_way.popleft()
            with contextlib.suppress(OSError):  # it is full, or down: lost
                os.write(end, packet)


def packets(end):
    for _ in range(64):
        try:
            yield os.read(end, 65536)
        except OSError:
            return


if __name__ == "__main__":
    main()
