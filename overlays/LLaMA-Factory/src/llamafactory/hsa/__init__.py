"""Hierarchical semantic attention: message types from the data to an attention bias (see docs/methods/hsa.md).

Submodules are imported one by one where a seam needs them, so that reading arguments never loads torch models.
"""
