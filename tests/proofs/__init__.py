"""Proofs over all points, or over a thousand cases: that a kill, a user's edit or hostile input loses nothing."""
