"""Functions and classes that run commands in namespaces, like those of subprocess and asyncio."""
