from ._util.version import __version__ as __version__
from .engine.iteration.settings import IterationSettings as IterationSettings
from .engine.records import BatchTable as BatchTable, RequestTable as RequestTable
from .latency.base import LatencyModel as LatencyModel
from .latency.registry import load_latency as load_latency
from .metrics.run import Metrics as Metrics
from .prediction.binning import Binning as Binning
from .prediction.predictors import predictor_from_spec as predictor_from_spec
from .schedulers.iteration.base import IterationScheduler as IterationScheduler
from .schedulers.registry import SCHEDULERS as SCHEDULERS, make_scheduler as make_scheduler
from .schedulers.scheduler import Scheduler as Scheduler
from .schedulers.settings import Settings as Settings
from .simulation.capacity.capacity import capacity as capacity
from .simulation.capacity.plan import Plan as Plan, plan as plan
from .simulation.capacity.results import Capacity as Capacity
from .simulation.capacity.target import Target as Target
from .simulation.comparison.comparison import compare as compare
from .simulation.comparison.results import Comparison as Comparison
from .simulation.hardware import Hardware as Hardware
from .simulation.run import BatchRun as BatchRun, ContinuousRun as ContinuousRun, Run as Run
from .simulation.scenario import Scenario as Scenario
from .simulation.simulate import simulate as simulate
from .simulation.sweep.sweep import sweep as sweep
from .simulation.uncertainty import draw_latencies as draw_latencies
from .workload.closed_loop import ClosedLoop as ClosedLoop
from .workload.describe import describe as describe
from .workload.formats.registry import read_trace as read_trace, write_trace as write_trace
from .workload.prepare import prepare as prepare
from .workload.slo import Slo as Slo
from .workload.synthetic.generate import generate as generate
from .workload.synthetic.profiles import load_profile as load_profile
from .workload.trace import Trace as Trace, TraceError as TraceError
from .workload.workload import Workload as Workload
