"""Sandboxes, and the namespaces of a SandboxHost in which sandboxes are started."""
