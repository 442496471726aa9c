"""Sandbox networks: allowed names and addresses, published ports, and the proxy."""
