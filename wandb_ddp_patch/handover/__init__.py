"""How a run gets into another process: pickled, by a fork, from its parent, to other machines."""
