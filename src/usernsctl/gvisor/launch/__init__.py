"""Launch of a command in gVisor: request, facts about the host, plan, and execution of the plan."""
