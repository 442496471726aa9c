"""Sandboxes, and the namespace of the host that they are started in."""
