"""What benchmark tools write, one module a tool."""
