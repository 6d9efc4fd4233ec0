"""Which units are removed for a speed-up: schedules, strategies, exact end, refit after the cut. For pipeline."""
