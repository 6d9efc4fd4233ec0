"""Error raised when a listed result file was compacted away. In a file of its own, to import without Arrow."""


class Moved(Exception):
    """A listed file no longer exists: a compaction merged it into a part, so list the folder again.

    Example:
        >>> raise Moved("results/cells/dataset=digits/model=my-net/0123456789abcdef.parquet")
        Traceback (most recent call last):
            ...
        raybench.results.moved.Moved: results/cells/dataset=digits/model=my-net/0123456789abcdef.parquet
    """
