"""The agent, a program of usernsctl that starts further commands in a running sandbox."""
