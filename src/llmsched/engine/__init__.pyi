from .admission import Admission as Admission
from .batch.run import run_engine as run_engine
