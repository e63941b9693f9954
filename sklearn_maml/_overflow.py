"""Numbers beyond the range of float64: one error for whatever they lead to."""

from contextlib import contextmanager

import numpy as np

__all__ = ["check_overflow", "refusing_overflow"]


@contextmanager
def refusing_overflow():
    """Turn what overflow leads to into one error; numpy's warnings come before that, and less."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            yield
    except (np.linalg.LinAlgError, FloatingPointError) as error:
        raise ValueError(
            f"Overflow: numbers beyond the range of float64 ({error}). Rescale X and y. Steps "
            "that are not capped grow without bound: use cap=True or a smaller inner_lr there."
        ) from error


def check_overflow(values):
    """Raise FloatingPointError unless all values are finite."""
    if not np.isfinite(values).all():
        raise FloatingPointError("infinity or NaN in the result")
