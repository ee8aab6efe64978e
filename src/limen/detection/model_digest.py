"""SHA-256 of data/injection.bin; written by training/train.py."""

from typing import Final

DIGEST: Final = "680f6c19ed3b7a233ac6d30d99e921be6adddf35a1b0c5de7a0a565c65210a3d"
