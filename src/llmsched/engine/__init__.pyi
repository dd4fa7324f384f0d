from .admission import Admission as Admission
from .batch.run import run_engine as run_engine
from .iteration.run import (
    IterationRun as IterationRun,
    run_iteration_engine as run_iteration_engine,
)
from .iteration.settings import IterationSettings as IterationSettings
from .step_records import (
    ReplicaTable as ReplicaTable,
    ServedTable as ServedTable,
    StepTable as StepTable,
)
