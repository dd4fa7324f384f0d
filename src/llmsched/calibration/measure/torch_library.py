"""torch and transformers: imported when asked for, kept quiet, their errors in one line."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from llmsched.latency.base import CalibrationError

_HUB_TIMEOUT_S = 5.0  # to hear from the hub at all, before its own client begins to retry

T = TypeVar("T")


def libraries() -> tuple[Any, Any]:
    """torch and transformers.

    Raises
    ------
    CalibrationError
        If one of them is not installed.
    """
    try:
        torch = importlib.import_module("torch")
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        missing = f": {error}".rstrip(": ")
        raise CalibrationError(
            "measuring needs torch and transformers, and they cannot be imported"
            f"{missing}; pip install 'llmsched[calibrate]'"
        ) from error
    return torch, transformers


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is how torch says that memory ran out, on a GPU or on a CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    signs = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """transformers without its notes and progress bars; its warnings become nothing."""
    import warnings

    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


@contextmanager
def one_line(title: str) -> Iterator[None]:
    """What loading can end in, as one line that names the model."""
    known: tuple[type[Exception], ...] = (
        *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError),
        *_library_errors(),
    )
    try:
        yield
    except CalibrationError:
        raise
    except known as error:
        if is_out_of_memory(error):
            raise CalibrationError(f"{title} must fit in memory, and it does not") from error
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CalibrationError(f"{title} cannot be loaded: {reason}") from error
    except MemoryError as error:
        raise CalibrationError(f"{title} must fit in memory, and it does not") from error


def _library_errors() -> tuple[type[Exception], ...]:
    """Errors of the libraries below that derive from Exception alone, where they have them."""
    errors = importlib.import_module("huggingface_hub.errors")
    found = [importlib.import_module("safetensors").SafetensorError]
    found.append(getattr(errors, "StrictDataclassError", None))
    with suppress(ImportError):  # older clients use requests, whose errors are OSError
        found.append(importlib.import_module("httpx").HTTPError)
    return tuple(error for error in found if error is not None)


def local_first(name: str, load: Callable[[bool], T]) -> T:
    """Load from the disk; go to the hub only if it answers, as its client retries for minutes."""
    try:
        return load(True)
    except OSError as error:
        if Path(name).exists():
            raise
        if (reason := _hub_unreachable()) is not None:
            raise CalibrationError(
                f"model {name!r} must be a folder or a model in the local cache while the hub "
                f"cannot be reached ({reason}); download it elsewhere, or use --random-weights"
            ) from error
    return load(False)


def _hub_unreachable() -> str | None:
    """Why the hub cannot be asked; None if it answers."""
    import requests

    constants = importlib.import_module("huggingface_hub.constants")
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        requests.head(constants.ENDPOINT, timeout=_HUB_TIMEOUT_S)
    except requests.RequestException as error:
        return type(error).__name__
    return None
