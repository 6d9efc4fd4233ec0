"""Progress of a sweep, kept in its storage: journal, outcomes, snapshots. Imported by tasks and every package above."""
