"""Sandboxes, and the namespaces of a SandboxHost in which they are started."""
