"""Causes of failures: what is known of each, and the messages that they are recognised by."""
