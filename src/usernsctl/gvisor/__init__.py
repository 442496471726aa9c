"""Sandboxes: runsc found, its bundle checked and built, and a command started in it."""
