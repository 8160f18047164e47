"""One file per upstream class, each reading like the class that it amends."""
