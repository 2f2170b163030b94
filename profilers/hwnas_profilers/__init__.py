"""The device side of hwnas: a worker that measures networks and runs alone on the device."""
