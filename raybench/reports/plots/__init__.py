"""The plots of results: Pareto fronts, ranks with intervals, curves, widths, matrix of pairs. Each is a drawing."""
