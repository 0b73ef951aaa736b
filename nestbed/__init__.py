"""nestbed: secure hosts that are themselves virtual machines, emulated, counted and compared.

Only what this package exports is promised to stay. Importing it is cheap: no Trio, no numpy.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
