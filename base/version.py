"""The version of the package, in a file that setuptools can read without running anything."""

__version__ = "0.1.0"
