"""llmsched: which batching scheduler, with how many GPUs, meets a latency SLA on your traffic.

The public names load on first use, so that `import llmsched` and `llmsched --help` stay light.
"""

import lazy_loader

from llmsched._util.version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
