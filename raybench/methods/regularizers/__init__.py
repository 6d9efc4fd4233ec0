"""Sparsity regularizers: one file each."""
