"""Mutation testing of one room: `make mutants ROOM=selection [SAMPLE=100 SEED=0]`. Results: docs/mutants.md."""
