"""Where a local server comes from and where it runs."""
