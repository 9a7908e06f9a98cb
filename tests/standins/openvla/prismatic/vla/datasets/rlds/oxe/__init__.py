"""Mixtures of data sets by name: the toy world's two kinds of tasks together, half and half."""

OXE_NAMED_MIXTURES: dict[str, list[tuple[str, float]]] = {
    "toy_mixture": [("toy_general", 1.0), ("libero_spatial_no_noops", 1.0)],
}
