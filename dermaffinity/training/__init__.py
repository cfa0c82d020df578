"""Training: the loop of one fold, the jobs of a cross-validation, and how they are launched."""

import lazy_loader

# The names are listed in __init__.pyi. A module is imported when one of its names is used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
