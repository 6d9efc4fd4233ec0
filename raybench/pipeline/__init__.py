"""The stages of a trial: base, sparsify, select, cut, fine-tune, measure, row. Used by execution and cli."""
