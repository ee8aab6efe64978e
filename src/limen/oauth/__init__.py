"""How do clients get our tokens? An authorization server in front of the one that signs people in."""
