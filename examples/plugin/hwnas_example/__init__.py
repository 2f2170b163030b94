"""A runtime (``numpy_reference``) and a search space (``ladder``) that hwnas finds by their entry points."""
