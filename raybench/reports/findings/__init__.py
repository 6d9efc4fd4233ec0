"""Findings computed from any store, each beside the paper's claim and the published rows computed in the same way."""
