"""A run on other machines: W&B's own protocol, through a tunnel to its owner's service.

From the ground up, each uses only what stands before it: wandb_kinds, wandb_protocol,
wandb_paths; wandb_requests, wandb_responses; records; received_files, sent_files; addresses,
doors; gateway, opening (the owner's side); endpoint, tunnel (the worker's).
"""
