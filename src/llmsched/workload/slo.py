"""What the senders of requests expect: limits on latency, on the first token, on each token."""

from __future__ import annotations

from dataclasses import dataclass

from llmsched._util.options import check_options, option


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Service-level objectives of one request; what is not set is not asked.

    Parameters
    ----------
    latency_s : float, optional
        Longest time from arrival to the last token [s].
    ttft_s : float, optional
        Longest time from arrival to the first token [s].
    tpot_s : float, optional
        Longest mean time per output token after the first [s].

    Notes
    -----
    A batch-level scheduler answers all at once: the first token comes with the last, so that
    `ttft_s` bounds the latency, and `tpot_s` nothing.

    Examples
    --------
    >>> Slo(latency_s=10).latency_s
    10
    """

    latency_s: float | None = option(
        10.0, "Latency target of a request.", flag="sla", metavar="SECONDS", above=0
    )
    ttft_s: float | None = option(
        None, "Target of the time to the first token.", flag="ttft-slo", metavar="SECONDS", above=0
    )
    tpot_s: float | None = option(
        None, "Target of the time per output token.", flag="tpot-slo", metavar="SECONDS", above=0
    )

    def __post_init__(self) -> None:
        check_options(self)
