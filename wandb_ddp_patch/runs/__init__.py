"""A run outside the process that owns it: what it knows, and its ways home.

From the ground up, each uses only what stands before it: facts, alive, marker, releases,
current; link; making; service, local, remote; local_server; ways; payload; dispatch; disabled;
sharing; forks.
"""
