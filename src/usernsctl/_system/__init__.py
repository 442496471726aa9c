"""Access to Linux beside namespaces: /proc, descriptors, mounts, state on the disk."""
