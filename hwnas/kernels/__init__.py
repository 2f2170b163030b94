"""Latency of any network, kernel by kernel: what a runtime runs as one unit, and what each of them costs on a target."""
