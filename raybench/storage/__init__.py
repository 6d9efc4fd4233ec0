"""Stores all files of a sweep under one root, a folder or an object store. Every package above may import it."""
