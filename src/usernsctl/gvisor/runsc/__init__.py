"""runsc: found, called, asked, and read where it fails."""
