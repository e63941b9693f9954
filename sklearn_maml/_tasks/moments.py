"""Mean and standard deviation of the features, over all rows of all tasks."""

import numpy as np

__all__ = ["moments"]


def moments(blocks):
    """Mean and standard deviation of each feature over all rows, every task counting p_i.

    Parameters
    ----------
    blocks : Blocks

    Returns
    -------
    mean, deviation : ndarray of shape (d,)
    """
    origin = None
    total = square = 0.0
    for stack, task_weight, ones in blocks.stacks():
        phi = stack.features.reshape(-1, stack.features.shape[-1])
        weight, ones = (task_weight[:, None] * stack.weights).ravel(), ones.ravel()
        if origin is None:  # near the mean, so that large offsets do not cancel
            origin = phi.mean(axis=0)
            spare = np.empty_like(phi)
        if len(spare) < len(phi):
            spare = np.empty_like(phi)
        centred = np.multiply(ones[:, None], origin, out=spare[: len(phi)])  # used again
        np.subtract(phi, centred, out=centred)
        total = total + (weight * ones) @ centred
        centred *= centred
        square = square + weight @ centred
    return origin + total, np.sqrt(np.maximum(square - total**2, 0.0))
