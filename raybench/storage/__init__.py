"""One root for everything a sweep leaves behind, on a disk or in an object store."""
