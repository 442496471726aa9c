"""Interface to runsc: its path, releases, command lines, logs, containers and standard streams."""
