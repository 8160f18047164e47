"""What tests ask of processes that they have started."""

from pathlib import Path


def alive(pid):
    """Return True if a process runs: one that has exited and is not waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
