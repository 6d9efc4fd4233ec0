"""Sweeps, trials and recipes: their models, the YAML reader, and data folders. All rooms above may import it."""
