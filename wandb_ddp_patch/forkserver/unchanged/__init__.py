"""Workers of unchanged scripts: torch's own spawn, from the forkserver."""
