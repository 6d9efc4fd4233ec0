"""Datasets: one file a format, static facts, splits. Used by tasks and pipeline."""
