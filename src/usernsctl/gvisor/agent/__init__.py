"""The agent of a sandbox: the program of usernsctl that starts further commands inside."""
