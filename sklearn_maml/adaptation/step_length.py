"""How long a gradient step is."""

from numbers import Real

import numpy as np

__all__ = ["check_step_lengths"]


def check_step_lengths(inner_lr):
    """Raise unless `inner_lr` is a positive number, or a row of numbers that are not negative."""
    if np.ndim(inner_lr) == 0:
        if isinstance(inner_lr, bool) or not isinstance(inner_lr, Real):
            raise TypeError(
                "inner_lr must be a positive number, one a parameter, or 'learn'; "
                f"got {inner_lr!r}."
            )
        if not 0 < inner_lr < np.inf:
            raise ValueError(f"inner_lr must be positive and finite; got {inner_lr}.")
        return
    lengths = np.asarray(inner_lr)
    if lengths.ndim != 1 or lengths.dtype.kind not in "iuf":
        raise TypeError(f"inner_lr must be a number, or one a parameter; got {inner_lr!r}.")
    if not (np.isfinite(lengths).all() and (lengths >= 0).all() and (lengths > 0).any()):
        raise ValueError(
            f"inner_lr must be finite, nowhere negative and not all zero; got {inner_lr!r}."
        )
