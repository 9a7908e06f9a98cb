"""Pipelines over the upstreams' native commands: one file a method, and the small modules that they share."""
