"""The interface to runsc: path, releases, command lines, logs, containers, standard streams."""
