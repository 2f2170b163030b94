"""Backends: from a module or a layer graph to the model files of one runtime and precision."""
