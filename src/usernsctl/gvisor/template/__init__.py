"""Templates: a command that was brought to where it is ready, saved, and started from there."""
