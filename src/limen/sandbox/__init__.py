"""Where a local server comes from, where it runs, and what it may reach from there."""
