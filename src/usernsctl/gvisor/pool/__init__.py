"""Pools of sandboxes that are started in advance."""
