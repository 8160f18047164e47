"""A run in this process: its state, what is put around its methods, and what it knows of itself."""
