"""Verbs with arguments of their own; each module has ``add_parser`` and ``run``."""
