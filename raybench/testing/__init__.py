"""Checks that authors of methods run on their own files. Only cli may import it."""
