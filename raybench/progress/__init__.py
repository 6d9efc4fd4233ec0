"""Progress of a sweep, kept in its storage: journal, outcomes, snapshots. For tasks and all rooms above."""
