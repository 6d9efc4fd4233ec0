"""The Parquet store, its schema as code, and what is read out of it."""
