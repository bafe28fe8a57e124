"""The log of receipts: Merkle tree, signed checkpoints, sealing and audit."""
