"""One command in gVisor: what is asked for, what is found, what follows, and its performance."""
