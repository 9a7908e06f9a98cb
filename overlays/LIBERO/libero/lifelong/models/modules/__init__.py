"""Makes ``modules`` a package that setuptools finds."""
