"""MCP on the wire, both eras. Pure: no I/O."""
