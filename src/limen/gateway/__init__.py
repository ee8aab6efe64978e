"""Surface: the network."""
