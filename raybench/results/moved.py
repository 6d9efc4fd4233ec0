"""Told apart from every other error, and importable without Arrow."""


class Moved(Exception):
    """A listed file is gone: a compaction merged it into a part, so the folder has to be listed again."""
