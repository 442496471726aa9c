"""Networks of sandboxes: what a sandbox may reach outside."""
