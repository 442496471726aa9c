"""Causes of failures: the catalogue, and the explanation of error messages."""
