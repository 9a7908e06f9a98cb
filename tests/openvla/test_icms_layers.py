"""Layers and groups as written on the command line."""

import pytest
from research.icms.layers import LayerError, check_layers, parse_groups, parse_layers


def test_layers():
    assert parse_layers("16, 8,24") == [8, 16, 24]
    assert parse_layers("0") == [0]
    assert parse_layers("auto:3") == 3


@pytest.mark.parametrize("text", ["", "8,", "8;16", "-1", "8,8", "auto", "auto:0", "auto:x", "8.0"])
def test_layers_that_cannot_be_meant(text):
    with pytest.raises(LayerError, match="--layers"):
        parse_layers(text)


def test_groups():
    assert parse_groups("8:6-10;16:14,16-17", [8, 16, 24]) == {8: (6, 7, 8, 9, 10), 16: (14, 16, 17), 24: (24,)}
    assert parse_groups("", [3, 4]) == {3: (3,), 4: (4,)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("488", "YAML reads a single pair such as 8:8 as a number; leave that group out"),
        ("8-", "a colon and its members"),
        ("8:", "neither a layer nor a range"),
        ("8:10-6", "neither a layer nor a range"),
        ("8:6-10-12", "neither a layer nor a range"),
        ("x:6", "a colon and its members"),
        ("9:9-10", "layer 9 has no subspace; add it to --layers"),
        ("8:9-10", "layer 8 is not in its own group; write 8:9-10,8"),
        ("8:6-12;16:12-18", "layer 12 is in the groups of 8 and of 16; give it to one"),
        ("8:6-16", "layer 16 is in the groups of 8 and of 16"),
    ],
)
def test_groups_that_cannot_be_meant(text, said):
    with pytest.raises(LayerError, match="--groups") as error:
        parse_groups(text, [8, 16])
    assert said in str(error.value)


def test_layers_that_the_model_does_not_have():
    check_layers({2: (1, 2, 3)}, 4)
    with pytest.raises(LayerError, match="layer 4: the model has 4 layers, 0 to 3"):
        check_layers({2: (2, 3, 4)}, 4)
    with pytest.raises(LayerError, match=r"layer 3 is the last.*choose 0 to 2"):
        check_layers({3: (3,)}, 4)
