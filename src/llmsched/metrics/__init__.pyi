from .bins import BinMetrics as BinMetrics
from .intervals import (
    Interval as Interval,
    mean_interval as mean_interval,
    paired_difference as paired_difference,
)
from .load import (
    DRAIN_SHARE as DRAIN_SHARE,
    LABEL_RULE as LABEL_RULE,
    MEMORY_SHARE as MEMORY_SHARE,
    LoadLabel as LoadLabel,
    load_label as load_label,
    memory_best_batch as memory_best_batch,
    offered_load as offered_load,
)
from .run import Metrics as Metrics, metrics as metrics
from .tokens import (
    TokenMetrics as TokenMetrics,
    token_metrics as token_metrics,
)
