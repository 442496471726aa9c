"""The interface to ``usernsctl-agent``, which starts commands in a running sandbox."""
