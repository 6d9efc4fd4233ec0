"""The base classes of pruning methods, the built-in criteria and regularizers, and their numerics. Imports groups."""
