"""Persistent namespaces, which descriptors or a holder process keep alive."""
