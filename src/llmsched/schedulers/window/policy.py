"""`deadline_window`: batches of alike requests, wherever they wait, by gain per GPU second.

Our own scheduler, without bins and without a controller; docs/deadline_window.md says why, what it
gains, and where it loses. The waiting requests are sorted by predicted service time. When a GPU is
free, windows of that order are looked at, and the one of the highest value per second of its batch
time is served. It knows the predictions and the latency model, and learns from the batches that
finish how far off they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from llmsched._util.arrays import FloatArray
from llmsched.latency.base import LatencyModel, Shape
from llmsched.schedulers.base import BatchPlan, FinishedBatch, Selection, WaitingView
from llmsched.schedulers.window.places import Indices, Places, Windows, largest_of, sums_of

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
ANCHORS = (1, 4, 16, 64)  # and the largest: where it is judged who is in time, for sizes up to it
USUAL_SIZE = 64  # of the batches in which the whole queue is thought to be served
MOST_PLACES = 256  # lengths of the queue for which it is kept where its windows lie
MEMORY_SHARE = 0.9  # of the KV memory, by predicted lengths: the rest is for their errors
_LEAST_S = 1e-300  # a batch that takes no time gains without bound
_OCTAVES = 64  # of the predicted time alone of a batch's longest member, 2^-32 to 2^32 s
# Rows of what is kept of each waiting request; from _OWN on, a batch of its likes at each anchor.
_REQUEST, _ARRIVAL, _PROMPT, _OUTPUT, _TOTAL, _ALONE, _OWN = range(7)
_TOKENS, _LENGTHS = slice(_PROMPT, _ALONE), slice(_PROMPT, _OWN)
_KEYS = {"service": _ALONE, "output": _OUTPUT}
_COLUMNS = (
    (_REQUEST, "request"),
    (_ARRIVAL, "arrival_s"),
    (_PROMPT, "prompt_tokens"),
    (_OUTPUT, "predicted_tokens"),
    (_ALONE, "alone_s"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowRule:
    """The constants of `WindowPolicy`; each can be turned off, to see what it brings.

    Parameters
    ----------
    late_weight : float
        Worth of a request that is late whatever is done, per SLA that it has waited.
    most_late : float
        SLAs of waiting beyond which such a request gains nothing more.
    look_ahead : float
        A request that could wait for the whole queue, and for so many SLAs more, is worth half of
        one that could not.
    queue_ahead : float
        Share of the queue that is thought to be served first; 0 looks at the request alone.
    learning_rate : float
        Weight of the newest batch in the corrections that are learned; 0 learns nothing.
    by_length : bool
        Whether they are learned for each octave of length too, or for each size alone.
    order : {"service", "output"}
        What requests are sorted by: predicted service time alone, or predicted output tokens.
    sizes : tuple of int
        Batch sizes that are looked at: increasing, from 1 on.
    positions : int
        Windows of one size that are looked at, evenly spread; all of them, if they are fewer.
    refresh : float
        Share of the queue that may come and go before windows are looked at again.
    """

    late_weight: float = 2.0
    most_late: float = 10.0
    look_ahead: float = 0.3
    queue_ahead: float = 1.0
    learning_rate: float = 0.1
    by_length: bool = True
    order: Literal["service", "output"] = "service"
    sizes: tuple[int, ...] = SIZES
    positions: int = 64
    refresh: float = 0.25


@dataclass(slots=True, eq=False)
class WindowPolicy:
    """Serve the window of alike requests with the most value per second of its batch time.

    Parameters
    ----------
    latency : LatencyModel
        What a batch is believed to take.
    sla_s : float
        Latency target of a request [s].
    capacity_tokens : float
        Tokens that the KV memory of a GPU holds.
    batch_max : int
        The largest batch [requests].
    rule : WindowRule

    Notes
    -----
    The value of a window is the sum over its requests of

    - late_weight · min(wait/SLA, most_late), if it is late even in a batch of its likes that
      starts now;
    - 1/(1 + e/(look_ahead · SLA)) otherwise, where e is what is left of its time after such a
      batch, and after the whole queue has been served before it; 1 if that leaves nothing.

    Batch times are those of the latency model on predicted lengths, times two corrections, for the
    size and for the octave of the longest member's time alone: each the exponential of an
    exponential average of what log(true/predicted) the two leave.
    Equals are served in order of arrival: of requests that its order cannot tell apart, the
    oldest go first, whichever of them the window held.
    """

    latency: LatencyModel | None
    sla_s: float
    capacity_tokens: float
    batch_max: int = 128
    rule: WindowRule = field(default_factory=WindowRule)
    _sizes: Indices = field(init=False)
    _anchors: Indices = field(init=False)  # indices of some sizes
    _log_of_size: FloatArray = field(init=False)  # corrections, learned
    _log_of_octave: FloatArray = field(init=False)
    _queue: FloatArray = field(init=False)  # (rows, n), sorted when windows were last looked at
    _planned: NDArray[np.bool_] = field(init=False)  # (n,)
    _new: list[NDArray[np.void]] = field(init=False, default_factory=list)
    _n_new: int = field(init=False, default=0)
    _asked_s: float = field(init=False, default=-math.inf)
    _given_back: bool = field(init=False, default=False)  # some of the new came before others
    _places: dict[int, Places] = field(init=False, default_factory=dict)
    _windows: Windows | None = field(init=False, default=None)
    _n_running: int = field(init=False, default=0)
    _n_gpus: int = field(init=False, default=1)  # as many as ever ran at once

    def __post_init__(self) -> None:
        sizes = [size for size in self.rule.sizes if size < self.batch_max]
        self._sizes = np.array([*sizes, self.batch_max], dtype=np.intp)
        self._log_of_size = np.zeros(len(self._sizes))
        self._log_of_octave = np.zeros(_OCTAVES)
        inner = [index for index, size in enumerate(sizes) if size in ANCHORS]
        self._anchors = np.array([*inner, len(sizes)], dtype=np.intp)
        self._queue = np.empty((_OWN + len(self._anchors), 0))
        self._planned = np.empty(0, np.bool_)

    def next_batch(self, waiting: WaitingView, now_s: float) -> BatchPlan | None:
        """The best window: its requests, the oldest first."""
        self._n_running += 1
        self._n_gpus = max(self._n_gpus, self._n_running)
        self._show(waiting.arrived.rows)
        self._asked_s = now_s
        n_waiting = sum(waiting.counts)
        if n_waiting == 1 and self._n_new == 1:
            return self._alone()
        best = None
        if self._windows is not None and self._n_new <= self.rule.refresh * n_waiting:
            best = self._windows.take_best()
        if best is None:  # all windows were taken or met one that was
            self._windows = self._looked_at(now_s)
            best = self._windows.take_best()
        assert best is not None  # the smallest windows are always looked at
        size_index, start, end, model_s = best
        octave = _octave(float(self._queue[_ALONE, end - 1]))
        members = self._oldest_of_equals(start, end)
        self._planned[members] = True
        chosen = self._queue[_REQUEST : _ARRIVAL + 1, members]
        requests = chosen[_REQUEST, np.lexsort(chosen)].astype(np.int32)
        return Selection(requests, note=(size_index, octave, end - start, model_s))

    def observe(self, batch: FinishedBatch, service_s: float) -> None:
        """Learn how far the predicted time of such a batch was off; not where it was cut."""
        self._n_running -= 1
        size_index, octave, size, model_s = batch.note
        if batch.size == size and service_s > 0 and model_s > 0:
            # what the corrections of now leave: those of its plan may be many batches old
            left = math.log(service_s / model_s) - self._log_correction(size_index, octave)
            step = self.rule.learning_rate * left
            self._log_of_size[size_index] += step
            if self.rule.by_length:
                self._log_of_octave[octave] += step

    def _log_correction(self, size_index: int, octave: int) -> float:
        return float(self._log_of_size[size_index] + self._log_of_octave[octave])

    def _show(self, rows: NDArray[np.void]) -> None:
        """Those that have come, or come back: the engine did not take them."""
        if not len(rows):
            return
        self._new.append(rows)
        self._n_new += len(rows)
        if rows["arrival_s"][0] <= self._asked_s:  # no younger equal of it may be planned first
            self._given_back = True
            self._windows = None

    def _alone(self) -> Selection:
        """The only one that waits, which has just come: there is nothing to look at."""
        row = self._new.pop()[0]
        self._n_new = 0
        self._given_back = False
        self._windows = None
        alone_s = float(row["alone_s"])
        return Selection([int(row["request"])], note=(0, _octave(alone_s), 1, alone_s))

    def _oldest_of_equals(self, start: int, end: int) -> Indices:
        """Positions of a window whose first equals are replaced by the oldest that still wait."""
        key = self._queue[_KEYS[self.rule.order]]
        if start == 0 or key[start - 1] != key[start]:
            return np.arange(start, end)
        first = int(key.searchsorted(key[start]))
        equal_end = min(int(key.searchsorted(key[start], side="right")), end)
        equals = first + np.flatnonzero(~self._planned[first:equal_end])[: equal_end - start]
        assert self._windows is not None
        self._windows.forget(int(equals[0]), end)
        return np.concatenate((equals, np.arange(equal_end, end)))

    def _looked_at(self, now_s: float) -> Windows:
        """What the windows of everything that waits now are worth."""
        latency = self._latency()
        self._merge(latency)
        queue, n = self._queue, self._queue.shape[1]
        places = self._places.get(n)
        if places is None:
            if len(self._places) == MOST_PLACES:
                self._places.clear()
            anchors = self._sizes[self._anchors]
            places = Places.of(n, self._sizes, anchors, self.rule.positions)
            self._places[n] = places
        of_size = np.exp(self._log_of_size)[:, np.newaxis]
        of_octave = np.exp(self._log_of_octave)
        octave = _octaves(queue[_ALONE])
        longest = self._longest(places)
        model_s = _batch_s(latency, places.size, longest)
        service_s = of_size[: len(places.size)] * model_s * of_octave[octave[places.end - 1]]
        own_s = of_size[self._anchors] * queue[_OWN:] * of_octave[octave]
        value = sums_of(self._worth(own_s, now_s), places.anchor, places)
        tokens = sums_of(queue[_TOTAL : _TOTAL + 1], 0, places)
        fits = (tokens <= MEMORY_SHARE * self.capacity_tokens) | (places.size == 1)
        score = np.where(fits, value / np.maximum(service_s, _LEAST_S), -1.0)
        return Windows(places, model_s, score)

    def _longest(self, places: Places) -> FloatArray:
        """The largest prompt, output, both and time alone of each window."""
        if self.rule.order != "service":
            return largest_of(self._queue[_LENGTHS], places)
        longest = np.empty((_OWN - _PROMPT, *places.start.shape))
        longest[:-1] = largest_of(self._queue[_TOKENS], places)
        longest[-1] = self._queue[_ALONE, places.end - 1]
        return longest

    def _worth(self, own_s: FloatArray, now_s: float) -> FloatArray:
        """What each request is worth in a batch of its likes that starts now, (anchors, n)."""
        rule, wait_s = self.rule, now_s - self._queue[_ARRIVAL]
        anchors = self._sizes[self._anchors]
        usual = min(own_s.shape[1], USUAL_SIZE)
        of_usual = int(np.searchsorted(anchors, usual, side="right")) - 1
        drain_s = float(own_s[of_usual].sum()) / int(anchors[of_usual]) / self._n_gpus
        left_s = (self.sla_s - wait_s) - own_s
        ahead_s, scale_s = rule.queue_ahead * drain_s, rule.look_ahead * self.sla_s
        excess = np.maximum(left_s - ahead_s, 0.0) * (1.0 / scale_s)
        late = np.minimum(wait_s * (1.0 / self.sla_s), rule.most_late) * rule.late_weight
        worth: FloatArray = np.where(left_s >= 0, 1.0 / (1.0 + excess), late)
        return worth

    def _merge(self, latency: LatencyModel) -> None:
        """Sort those that still wait and those that have come; forget those that were planned."""
        queue, kept = self._queue, np.flatnonzero(~self._planned)
        if self._new:
            came = np.empty((len(queue), self._n_new))
            for row, name in _COLUMNS:
                np.concatenate([rows[name] for rows in self._new], out=came[row])
            came[_TOTAL] = came[_PROMPT] + came[_OUTPUT]
            sizes = self._sizes[self._anchors, np.newaxis]
            came[_OWN:] = _batch_s(latency, sizes, came[_LENGTHS, np.newaxis])
            kept = np.concatenate((kept, np.arange(queue.shape[1], queue.shape[1] + self._n_new)))
            queue = np.concatenate((queue, came), axis=1)
            self._new.clear()
            self._n_new = 0
        if self._given_back:
            self._given_back = False
            kept = kept[np.lexsort(queue[_REQUEST : _ARRIVAL + 1, kept])]
        order = np.argsort(queue[_KEYS[self.rule.order], kept], kind="stable")
        self._queue = queue.take(kept[order], axis=1)
        self._planned = np.zeros(len(kept), np.bool_)

    def _latency(self) -> LatencyModel:
        if self.latency is None:
            raise ValueError(
                "deadline_window must know what batches take, got no latency model; make it of "
                "Settings(latency=...)"
            )
        return self.latency


def _batch_s(latency: LatencyModel, size: Indices, longest: FloatArray) -> FloatArray:
    """Batch time of each size, given its (prompt, output, both, time alone) at most [s]."""
    prompt, output, both, alone_s = longest
    return np.asarray(latency.service_s(Shape(size, both, prompt, output, alone_s)))


def _octave(alone_s: float) -> int:
    """Which octave of time a request takes alone."""
    return min(max(math.frexp(alone_s)[1] + _OCTAVES // 2, 0), _OCTAVES - 1)


def _octaves(alone_s: FloatArray) -> Indices:
    """The same of many."""
    octave: Indices = np.minimum(np.maximum(np.frexp(alone_s)[1] + _OCTAVES // 2, 0), _OCTAVES - 1)
    return octave
