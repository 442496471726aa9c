"""Templates: checkpoints of commands that were ready, from which sandboxes are started."""
