"""Contain, recover, investigate: what is done about an attack, and what proves it afterwards."""
