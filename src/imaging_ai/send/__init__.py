"""Results to their destinations: C-STORE and STOW-RS clients, and the ledger that proves each delivery."""
