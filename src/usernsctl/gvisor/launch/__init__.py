"""Launch of a command in gVisor: the request, facts about the host, the plan, and its execution."""
