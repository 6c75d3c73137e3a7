"""Fuzzing of every parser that faces the network, guided by coverage: `make fuzz` (docs/hostile.md)."""
