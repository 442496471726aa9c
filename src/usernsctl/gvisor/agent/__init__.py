"""The program of ours in a sandbox that starts further commands there."""
