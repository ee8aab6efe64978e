"""Composition root of the credentials servers are given: settings and state in, what AttachCredential asks out."""
