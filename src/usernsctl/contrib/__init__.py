"""Integrations with other packages, each of which is an optional dependency."""
