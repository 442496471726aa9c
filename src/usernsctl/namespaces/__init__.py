"""Persistent namespaces, which descriptors or a named holder keep alive."""
