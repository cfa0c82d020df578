"""Measures of prediction tables, their uncertainty and their comparison. Nothing here knows models, data or reports."""

import lazy_loader

# The names are listed in __init__.pyi. A module is imported when one of its names is used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
