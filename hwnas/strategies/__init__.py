"""Search strategies: NATv2 and its parts, baselines, and the runner that drives them."""
