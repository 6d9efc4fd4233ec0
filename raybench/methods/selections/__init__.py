"""Trained selections: one file each."""
