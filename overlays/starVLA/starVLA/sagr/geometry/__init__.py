"""Geometry tokens: dense tokens that know where things are, from depth and cameras or from MapAnything."""
