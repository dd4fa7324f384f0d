"""Who is served next, and how many: no clock, no SimPy, no true lengths."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
