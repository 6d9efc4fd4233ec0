"""Models by the names people type, and the weights that others made for them."""
