"""SHA-256 of data/injection.bin; written by training/train.py."""

from typing import Final

DIGEST: Final = "35458f4d894bde8f7cbcd7768a75fd628ce1239da75387ce468bf70fc2529b42"
