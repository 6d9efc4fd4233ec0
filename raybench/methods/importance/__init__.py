"""Importance criteria, one file a family."""
