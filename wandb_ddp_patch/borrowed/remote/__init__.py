"""A run on other machines than its owner's: see docs/machines.md for the protocol.

From the ground up, each uses only what stands before it: frames, handshake, lanes; files;
calls; session; hub; opening (the owner's side), client (the worker's); way.
"""
