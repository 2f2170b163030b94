"""A run: its folder, and the stages that lead from a device to verified artifacts."""
