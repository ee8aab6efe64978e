"""The nouns rooms exchange. Imports nothing of ours."""
