"""Measuring latency, tables of it, and the model that predicts it."""
