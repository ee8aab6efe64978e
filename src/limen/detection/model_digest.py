"""SHA-256 of data/injection.bin; written by training/train.py."""

from typing import Final

DIGEST: Final = "47c1b885794aa1c685b8aba9b87542a29b0debb905214deaebf652a4af4cbd67"
