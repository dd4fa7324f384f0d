"""Serve the bin of the shortest requests first: a scheduler of your own in twenty lines."""

from collections.abc import Sequence

from llmsched import Scheduler, Settings


class LowestBin:
    """The lowest bin that holds a request; the long ones may starve, which the table shows."""

    def choose(self, waiting: Sequence[int]) -> int | None:
        return next((index for index, count in enumerate(waiting) if count), None)


def shortest_bin_first(settings: Settings) -> Scheduler:
    """Bins by predicted length, the shortest first."""
    return Scheduler(
        batcher=settings.dynamic_batcher,
        choice=LowestBin(),
        binned=True,
        batch_max=settings.batch_max,
        capacity_tokens=settings.capacity_tokens,
    )
