"""What does the upstream get to see?"""
