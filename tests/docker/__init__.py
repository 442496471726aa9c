"""Tests with a Docker engine of their own. `make docker` runs them, as root."""
