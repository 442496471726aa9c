"""The agent: usernsctl's program in a sandbox that starts further commands there."""
