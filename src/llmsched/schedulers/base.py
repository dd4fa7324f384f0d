"""What a scheduler is: which bin is next, how large a batch may be, when a bin releases one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from llmsched.prediction.binning import BinBy, EdgeRule
from llmsched.schedulers.batch_size import Batcher
from llmsched.schedulers.bin_choice import BinChoice, RoundRobin, Waits


@dataclass(frozen=True, slots=True, kw_only=True)
class FullBatches:
    """Release rule of the multi-bin paper: a bin forms a batch the moment it holds `batch_size`.

    Formed batches are served first formed, first served; after the last arrival the remainders
    are released in bin order. `max_forming_wait_s` releases a part-full batch earlier [s].
    """

    batch_size: int
    max_forming_wait_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """The policy objects of one run; use each scheduler for one run only.

    Parameters
    ----------
    batcher : callable
        Makes the batcher of one bin.
    choice : BinChoice
        Which bin a free GPU serves.
    binned : bool
        Whether requests are spread over bins by predicted length.
    bin_by, bin_edges : str
        What its bins are by, and how their edges are found, where the user leaves it open.
    batch_max : int
        The largest batch it ever forms [requests]; the offered load is stated at this size.
    capacity_tokens : float
        Tokens that a batch may hold; a request larger than that alone is rejected on arrival.
    release : FullBatches, optional
        Form batches as requests arrive, instead of when a GPU asks.
    waits : Waits
        What the engine tells of ages, for a choice that holds it.
    """

    batcher: Callable[[], Batcher]
    choice: BinChoice = field(default_factory=RoundRobin)
    binned: bool = False
    bin_by: BinBy = "output"
    bin_edges: EdgeRule = "equal-mass"
    batch_max: int = 128
    capacity_tokens: float = math.inf
    release: FullBatches | None = None
    waits: Waits = field(default_factory=Waits)
