"""Tokens of vision transformers: which networks, the reduced network, its exact cost, counts for a target."""
