"""Tests with private Docker engines, which `make docker` runs as root."""
