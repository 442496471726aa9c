"""Templates: checkpoints of ready commands, from which sandboxes are started."""
