"""One file per upstream class, each reading like the class that it amends.

They are read when wandb is imported, which must stay quick: what only a run or a call needs is
imported there.
"""
