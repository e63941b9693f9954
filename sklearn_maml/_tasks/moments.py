"""Mean and standard deviation of the features, over all rows of all tasks."""

from functools import partial

import numpy as np

from sklearn_maml._parallel import one_blas_thread, solved_in_order

__all__ = ["moments", "over_stacks"]

# The work that it is to read a number; see `fold_blocks`.
NUMBER = 16


def over_stacks(f, blocks, n_jobs=None):
    """The sums over stacks, in their order, of the results of ``f(rows, weight, ones)``.

    Parameters
    ----------
    f : callable
        Of what `TaskBlocks.stacks` yields; returns a tuple.
    blocks : TaskBlocks
    n_jobs : int, default=None
        Threads, as in joblib; nothing depends on it.

    Returns
    -------
    tuple
    """
    work = NUMBER * blocks.tasks.offsets[-1] * blocks.features.width
    with one_blas_thread():
        parts = solved_in_order(lambda stack: f(*stack), blocks.stacks(), n_jobs, work)
        return tuple(map(sum, zip(*parts, strict=True)))


def moments(blocks, n_jobs=None):
    """Mean and standard deviation of each feature over all rows, every task counting p_i.

    Parameters
    ----------
    blocks : Blocks
    n_jobs : int, default=None
        As in joblib.

    Returns
    -------
    mean, deviation : ndarray of shape (d,)
    """
    # Near the mean, so that large offsets do not cancel.
    origin = next(iter(blocks.stacks()))[0].features.mean(axis=(0, 1))
    total, square = over_stacks(partial(_about, origin), blocks, n_jobs)
    return origin + total, np.sqrt(np.maximum(square - total**2, 0.0))


def _about(origin, rows, task_weight, ones):
    """A stack's weighted sums of the features about an origin, and of their squares."""
    phi = rows.features.reshape(-1, len(origin))
    weight, ones = (task_weight[:, None] * rows.weights).ravel(), ones.ravel()
    centred = np.multiply(ones[:, None], origin)
    np.subtract(phi, centred, out=centred)
    total = (weight * ones) @ centred
    return total, weight @ np.square(centred, out=centred)
