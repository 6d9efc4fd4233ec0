"""Search over depth, width and image size at a target cost: samples, a polynomial of accuracy, its optimum."""
