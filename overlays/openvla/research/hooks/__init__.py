"""Hooks on the decoder's blocks."""
