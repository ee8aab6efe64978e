"""SHA-256 of data/injection.bin; written by training/train.py."""

from typing import Final

DIGEST: Final = "ee8b410ec58eeae176504a3f92b12c48ea680b6a1d5e995176f38027619c9e9f"
