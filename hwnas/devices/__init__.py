"""Transports to devices and the client end of the profiler protocol."""
