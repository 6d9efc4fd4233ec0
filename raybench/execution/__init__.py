"""Runs the units of a plan, on Ray or in this process. The only package that imports ray. Imported by cli."""
