"""The meta-objective by the book: loops over tasks and steps, d x d matrices, no shortcuts."""

import numpy as np


def with_ones(X):
    return np.column_stack([X, np.ones(len(X))])


def gradient_steps(theta, Phi, y, inner_lr, n_steps, metric=None):
    """theta_i and J_i by following the steps one by one on the mean squared error."""
    d = len(theta)
    metric = np.eye(d) if metric is None else metric
    H = 2 * Phi.T @ Phi / max(len(Phi), 1)
    J = np.eye(d)
    for _ in range(n_steps):
        gradient = 2 * Phi.T @ (Phi @ theta - y) / max(len(Phi), 1)
        theta = theta - inner_lr * metric @ gradient
        J = (np.eye(d) - inner_lr * metric @ H) @ J
    return theta, J


def adapted_design(tasks, inner_lr, n_steps):
    """Adapted design and target with support = query = all rows, scaled by sqrt(p_i b_ij)."""
    rows, targets = [], []
    for X, y in tasks:
        Phi = with_ones(X)
        c, J = gradient_steps(np.zeros(Phi.shape[1]), Phi, y, inner_lr, n_steps)
        scale = 1 / np.sqrt(len(y) * len(tasks))
        rows.append(Phi @ J * scale)
        targets.append((y - Phi @ c) * scale)
    return np.vstack(rows), np.concatenate(targets)


def meta_loss(theta, episodes, inner_lr, n_steps, metric=None):
    """Mean over (support, query) episodes of the query's mean squared error after adapting."""
    losses = []
    for (Phi_s, y_s), (Phi_q, y_q) in episodes:
        theta_i, _ = gradient_steps(theta, Phi_s, y_s, inner_lr, n_steps, metric)
        losses.append(np.mean((Phi_q @ theta_i - y_q) ** 2))
    return np.mean(losses)
