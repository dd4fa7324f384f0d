from .base import (
    Arrivals as Arrivals,
    BatchPlan as BatchPlan,
    BatchPolicy as BatchPolicy,
    FinishedBatch as FinishedBatch,
    Head as Head,
    Later as Later,
    RequestView as RequestView,
    Sees as Sees,
    Selection as Selection,
    WaitingView as WaitingView,
)
from .batch_size import (
    Batcher as Batcher,
    DynamicBatcher as DynamicBatcher,
    FixedBatcher as FixedBatcher,
)
from .memory_limit import (
    NEWEST_WEIGHT as NEWEST_WEIGHT,
    PAST_WEIGHT as PAST_WEIGHT,
    BufferLimit as BufferLimit,
    CltLimit as CltLimit,
    MemoryLimit as MemoryLimit,
)
from .registry import (
    SCHEDULERS as SCHEDULERS,
    SchedulerFactory as SchedulerFactory,
    SchedulerSpec as SchedulerSpec,
    deadline_window as deadline_window,
    dynamic_no_bins as dynamic_no_bins,
    make_scheduler as make_scheduler,
    multi_bin_adaptive as multi_bin_adaptive,
    multi_bin_dynamic as multi_bin_dynamic,
    multi_bin_only as multi_bin_only,
    scheduler_name as scheduler_name,
    static_fifo as static_fifo,
)
from .scheduler import FullBatches as FullBatches, Scheduler as Scheduler
from .settings import (
    BIN_CHOICES as BIN_CHOICES,
    CONTROLLERS as CONTROLLERS,
    MEMORY_RULES as MEMORY_RULES,
    MOST_BATCH_SIZE as MOST_BATCH_SIZE,
    Settings as Settings,
)
from .sla_control import (
    NoController as NoController,
    PaperController as PaperController,
    SlaController as SlaController,
    WindowController as WindowController,
)
