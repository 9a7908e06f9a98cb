"""Instruction-conditioned subspaces (ICSM): which directions of a layer carry what must not be forgotten."""
