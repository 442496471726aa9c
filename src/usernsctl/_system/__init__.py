"""What is asked of Linux beside namespaces: /proc, descriptors, mounts, state on the disk."""
