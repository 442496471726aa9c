"""Tests with private Docker engines, run as root by `make docker`."""
