"""Does the content look hostile, and where may what it holds go?"""
