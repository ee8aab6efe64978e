"""One YAML file."""
