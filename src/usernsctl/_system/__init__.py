"""Linux features other than namespaces: processes, descriptors, paths, state files."""
