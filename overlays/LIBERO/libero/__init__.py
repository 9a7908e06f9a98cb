"""Makes ``libero`` a package that setuptools finds; without it ``pip install .`` installs nothing to import."""
