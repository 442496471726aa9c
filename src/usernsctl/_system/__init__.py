"""Access to Linux features other than namespaces: /proc, descriptors, mounts, files with state."""
