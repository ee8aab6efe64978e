"""SHA-256 of data/injection.bin; written by training/train.py."""

from typing import Final

DIGEST: Final = "5e1370eb7f3c8eadc28a6299c44cf76875c120cdc4fa544acb46e3db0d1db66b"
