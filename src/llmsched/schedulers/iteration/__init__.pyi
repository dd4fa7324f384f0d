from .base import (
    IterationScheduler as IterationScheduler,
    KnownRequests as KnownRequests,
    ProcessedStep as ProcessedStep,
    RunningLimit as RunningLimit,
    WaitingOrder as WaitingOrder,
)
from .limits import DynamicLimit as DynamicLimit
from .orders import BinsInTurn as BinsInTurn, Fcfs as Fcfs, Ranked as Ranked
from .registry import (
    ITERATION_SCHEDULERS as ITERATION_SCHEDULERS,
    IterationOptions as IterationOptions,
)
from .routing import ROUTERS as ROUTERS, ReplicasSeen as ReplicasSeen, Router as Router
