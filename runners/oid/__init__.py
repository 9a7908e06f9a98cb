"""Omega-ID of expert pairs: from a run's probe files to the 16 atoms of each pair, with intervals and pictures."""
