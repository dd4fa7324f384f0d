from .closed_loop import ClosedLoop as ClosedLoop
from .describe import (
    TokenSummary as TokenSummary,
    TraceSummary as TraceSummary,
    burst_shapes as burst_shapes,
    gamma_shape as gamma_shape,
)
from .prefixes.prefix_ids import PrefixIds as PrefixIds
from .sessions import Turns as Turns
from .shared_prefixes import with_shared_prefixes as with_shared_prefixes
from .trace import (
    LONGEST_S as LONGEST_S,
    Labels as Labels,
    Trace as Trace,
    TraceError as TraceError,
)
from .workload import (
    DEFAULT_PROFILE as DEFAULT_PROFILE,
    DEFAULT_REQUESTS as DEFAULT_REQUESTS,
    Workload as Workload,
)
