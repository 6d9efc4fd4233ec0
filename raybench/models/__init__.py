"""Networks by name, and loading of weights from files and hubs. Used by tasks and pipeline."""
