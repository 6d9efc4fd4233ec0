"""Serves the pages of a storage live, and queues sweeps that a form describes. Imports FastAPI; only cli imports it."""
