"""Tests with private Docker daemons, which `make docker` runs as root."""
