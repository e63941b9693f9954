"""Rows of stacked tasks, and their splits into support and query rows: functions on arrays."""

from typing import NamedTuple

import numpy as np

__all__ = ["Rows", "padded", "share_rows", "split_rows"]


class Rows(NamedTuple):
    """Rows of a stack of tasks: features (..., m, d), targets and weights (..., m).

    The weights of a task sum to 1, or are all 0 where it has no rows; padding has weight 0. With
    several targets, `targets` has one more leading axis, (n_targets, n_stacked, m). `size` (...)
    is the number of rows that a task counts for: the sum of its weights before they were scaled.
    """

    features: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    size: np.ndarray


def padded(features, targets, weights, sizes):
    """Rows (r, ...) of tasks one after another as stacks (n, m, ...); padding has weight 0."""
    shape = len(sizes), int(sizes.max())
    if (sizes == shape[1]).all():  # views, no copy
        targets = targets.reshape(*targets.shape[:-1], *shape)
        return features.reshape(*shape, -1), targets, weights.reshape(shape)
    place = np.arange(shape[1])
    real = place < sizes[:, None]
    index = np.where(real, (np.cumsum(sizes) - sizes)[:, None] + place, 0)
    return features[index], targets[..., index], np.where(real, weights[index], 0.0)


def split_rows(features, targets, weights, which, order, shots, sizes):
    """Support and query `Rows` of episodes.

    Parameters
    ----------
    features, targets, weights : ndarray of shape (n, m, d), (..., n, m), (n, m)
        All rows of n tasks.
    which : ndarray of shape (n_stacked,)
        The task of each episode, by its place in the stack.
    order : ndarray of shape (n_stacked, m) or None
        See `Episodes.order`.
    shots, sizes : ndarray of shape (n_stacked,)
    """
    if order is not None:
        at = which[:, None] * weights.shape[1] + order  # one index of all rows: it is faster
        features = np.take(features.reshape(weights.size, -1), at, axis=0)
        targets = np.take(targets.reshape(*targets.shape[:-2], weights.size), at, axis=-1)
        weights = np.take(weights, at)
    elif len(which) != len(weights):  # several numbers of first rows
        features, targets, weights = features[which], targets[..., which, :], weights[which]
    place, first, last = np.arange(weights.shape[1]), int(shots.min()), int(shots.max())
    sides = []
    for rows, low, high in ((slice(last), 0, shots), (slice(first, None), shots, sizes)):
        at = place[rows]
        real = (at >= np.reshape(low, (-1, 1))) & (at < high[:, None])
        own = np.where(real, weights[:, rows], 0.0)
        # A slice of features is a view: with equal numbers of shots nothing is copied.
        sides.append(_rows_of(features[:, rows], targets[..., rows], own))
    return sides


def share_rows(features, targets, weights, order, shots):
    """Support and query `Rows` of draws of one task, large and with few shots.

    Every draw has all rows of the task as query rows, without a copy: those that it drew as support
    rows weigh nothing there. Arguments are those of `split_rows`.
    """
    n, m, drawn = len(shots), order.shape[1], order[:, : shots.max()]
    chosen = np.arange(drawn.shape[1]) < shots[:, None]
    left = np.broadcast_to(weights, (n, m)).copy()
    np.put_along_axis(left, drawn, np.where(chosen, 0.0, weights[0][drawn]), axis=1)
    support = features[0][drawn], targets[..., 0, :][..., drawn], weights[0][drawn] * chosen
    query = (
        np.broadcast_to(features, (n, *features.shape[1:])),
        np.broadcast_to(targets, (*targets.shape[:-2], n, m)),
        left,
    )
    return [_rows_of(*rows) for rows in (support, query)]


def _rows_of(features, targets, weights):
    """`Rows` of tasks whose weights are as given."""
    size = weights.sum(axis=1)
    return Rows(features, targets, weights / np.where(size > 0, size, 1.0)[:, None], size)
