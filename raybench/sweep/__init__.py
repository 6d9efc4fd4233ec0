"""Sweeps, trials and recipes: their models, the YAML reader, and data folders. Every package above may import it."""
