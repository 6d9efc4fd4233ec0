"""Datasets, one file an on-disk format, read where they lie."""
