"""Turns a sweep into units of work, finished ones left out, with a cost. For progress, pipeline, execution, cli."""
