"""Commands in namespaces: started, waited for and ended, as subprocess and asyncio do it."""
