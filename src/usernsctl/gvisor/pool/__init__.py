"""Sandboxes that are started ahead of time."""
