"""Everything that touches a disk, a network or a vendor. Nothing in here decides."""
