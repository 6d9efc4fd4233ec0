"""The Parquet store: schema as code, reading, writing, compaction. For plan, progress, pipeline, reports and cli."""
