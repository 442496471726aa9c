"""Functions and classes, like those of subprocess and asyncio, that run commands in namespaces."""
