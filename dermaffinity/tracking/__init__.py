"""Where results are recorded: a small protocol, and MLflow behind it."""

import lazy_loader

# The names are listed in __init__.pyi. A module is imported when one of its names is used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
