"""Namespaces that are kept, by descriptors or by a name."""
