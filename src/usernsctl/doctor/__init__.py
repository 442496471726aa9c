"""Why it fails here: facts, probes, the catalogue of causes, and what mends each."""
