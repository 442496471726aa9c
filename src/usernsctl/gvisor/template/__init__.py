"""Templates: checkpoints of commands that are ready, from which sandboxes are started."""
