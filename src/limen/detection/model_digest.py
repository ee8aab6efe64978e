"""SHA-256 of data/injection.bin; written by training/train.py."""

from typing import Final

DIGEST: Final = "669dbf1780c5afcf81cb89580c4a7bf3ee5a49e6a674faaff1f5d79104d27721"
