"""Latency of a cut network predicted from a table of its layers, measured once on a device. For the selection."""
