from .binning import (
    DYNAMIC_BATCH_SIZE as DYNAMIC_BATCH_SIZE,
    BinBy as BinBy,
    Binning as Binning,
    EdgeRule as EdgeRule,
)
from .edges import (
    ROLLING_EVERY as ROLLING_EVERY,
    ROLLING_FIRST as ROLLING_FIRST,
    ROLLING_WINDOW as ROLLING_WINDOW,
    assign_bins as assign_bins,
    check_n_bins as check_n_bins,
    equal_mass_edges as equal_mass_edges,
    rolling_bins as rolling_bins,
)
from .predictors import (
    BERT_CONFUSION as BERT_CONFUSION,
    DEFAULT_SIGMA as DEFAULT_SIGMA,
    PREDICTORS as PREDICTORS,
    BertConfusion as BertConfusion,
    BinError as BinError,
    Noisy as Noisy,
    Oracle as Oracle,
    Prediction as Prediction,
    Predictor as Predictor,
    PromptPowerLaw as PromptPowerLaw,
    predictor_from_spec as predictor_from_spec,
)
