"""Statistics of results: paired differences, all pairs, ranks with intervals, seeds that a resolution needs."""
