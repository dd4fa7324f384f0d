from .base import (
    AXIS_LABELS as AXIS_LABELS,
    DRAWN as DRAWN,
    BatchShape as BatchShape,
    CalibrationError as CalibrationError,
    CalibrationWarning as CalibrationWarning,
    FittedModel as FittedModel,
    Kind as Kind,
    LatencyModel as LatencyModel,
    MeasuredRange as MeasuredRange,
    Shape as Shape,
    check_coefficients as check_coefficients,
    no_calibration_errors as no_calibration_errors,
    service_times_s as service_times_s,
)
from .formulas import (
    MAX_GAMMA as MAX_GAMMA,
    SATURATING_PARAMETERS as SATURATING_PARAMETERS,
    DrawnModel as DrawnModel,
    FourTermModel as FourTermModel,
    PerTokenModel as PerTokenModel,
    PromptOutputModel as PromptOutputModel,
    SaturatingModel as SaturatingModel,
)
from .interpolation import InterpolationModel as InterpolationModel
from .registry import (
    ENTRY_POINT_GROUP as ENTRY_POINT_GROUP,
    MEASURED_COVARIANCES as MEASURED_COVARIANCES,
    MEASURED_SETS as MEASURED_SETS,
    latency_names as latency_names,
    load_latency as load_latency,
    warn_outside as warn_outside,
)
from .step import StepModel as StepModel
from .step_times import (
    step_time_from_spec as step_time_from_spec,
    step_time_names as step_time_names,
)
from .steps.base import (
    Scaled as Scaled,
    StepLatency as StepLatency,
)
from .steps.files import (
    load_step_time as load_step_time,
    save_two_regime as save_two_regime,
)
from .steps.fit import (
    StepGrid as StepGrid,
    fit_two_regime as fit_two_regime,
)
from .steps.layers import (
    AllReduce as AllReduce,
    LayerTables as LayerTables,
)
from .steps.two_regime import (
    DecodeTerms as DecodeTerms,
    MixedTerms as MixedTerms,
    TwoRegime as TwoRegime,
    steps_of as steps_of,
)
from .uncertainty import Uncertainty as Uncertainty
