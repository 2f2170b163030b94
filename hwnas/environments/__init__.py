"""Environments of their own for converters whose packages do not live beside ours, and conversions that run in them."""
