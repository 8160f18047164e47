"""A run that its owner writes for others: see docs/machines.md for the protocol.

For workers on other machines, and, up to 0.12, where a run works in one process only, for
all. From the ground up, each uses only what stands before it: frames, handshake, lanes;
files; session; shared; hub; opening (the owner's side), client and line (the worker's);
way; near.
"""
