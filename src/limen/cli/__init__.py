"""Surface: the terminal."""
