"""Importance criteria: one file per family."""
