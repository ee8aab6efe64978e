"""What may be called, and where did it come from?"""
