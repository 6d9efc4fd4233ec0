"""Importance criteria and sparsity regularizers: one file a family, one class a name."""
