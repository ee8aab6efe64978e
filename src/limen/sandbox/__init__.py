"""Where a local server runs, and what it may reach from there."""
