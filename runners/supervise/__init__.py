"""Keeps a native command of an upstream running: why it died, what helps, and on from the last good checkpoint."""
