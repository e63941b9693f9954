"""Parts that were not written here are not trusted: they are tried at the certified point."""

import numpy as np

__all__ = ["asserted", "is_foreign", "pullback_error", "spot_check_rule"]

HOME = __name__.partition(".")[0] + "."

# Tasks that are tried, and the lengths of the differences, relative to theta.
TASKS, LENGTHS = 4, (1e-3, 1e-5, 1e-7)

# Differences are right to about this share; a wrong pullback is off by all of the adaptation.
TOLERANCE = 1e-3


def is_foreign(part, method):
    """Whether a method of a part was written outside of this package, also in a subclass."""
    return not getattr(type(part), method).__module__.startswith(HOME)


def asserted(part):
    """Why a part is believed: by construction, or because it says so and stood a trial."""
    method = "adapt" if hasattr(part, "adapt") else "gradient"
    if is_foreign(part, method):
        return f"asserted by {type(part).__name__}, spot-checked"
    return "holds by construction"


def spot_check_rule(objective, theta):
    """Raise where a foreign rule's pullback is not its derivative, or its `affine` is wrong.

    Parameters
    ----------
    objective : MetaObjective
    theta : ndarray of shape (d,) or (n_targets, d)

    Raises
    ------
    ValueError
        Naming the rule and by how much it is off.
    """
    rule = objective.rule
    if not is_foreign(rule, "adapt"):
        return
    support, query, _ = objective.risks(0)
    few = np.arange(min(TASKS, len(support.weights)))
    support, query = support.take(few), query.take(few)
    error = pullback_error(rule, theta[..., None, :], support, query.features)
    if not error <= TOLERANCE:
        raise ValueError(
            f"The pullback of {type(rule).__name__} is not the derivative of its adapt(): at these "
            f"meta-parameters they differ by {error:.2g} of their size. So there is no "
            "certificate, and the solver's gradients are wrong too; see check_adaptation_rule."
        )
    if objective.is_quadratic:
        error = affine_error(rule, theta[..., None, :], support)
        if not error <= 1e-6:
            raise ValueError(
                f"{type(rule).__name__}.affine is True, but its adapted parameters are not affine "
                f"in theta: off by {error:.2g} of their size. Leave affine at False."
            )


def pullback_error(rule, theta, support, rows, seed=0):
    """By how much ``pullback(rows) v`` differs from differences of ``rows A(theta)``, relatively.

    Parameters
    ----------
    rule : AdaptationRule
    theta : ndarray of shape (..., 1, d)
    support : Risk
        Of n tasks.
    rows : ndarray of shape (n, k, d)
    seed : int

    Returns
    -------
    float
        The best of several lengths of difference; nan if something is not finite.
    """
    size = np.sqrt(np.square(rows).mean(axis=(0, 1)))
    direction = np.random.default_rng(seed).normal(size=theta.shape) / np.where(size > 0, size, 1.0)
    scale = max(1.0, float(np.abs(theta * size).max()))
    _, pullback = rule.adapt(theta, support)
    pulled = np.matmul(pullback(rows), direction[..., None])[..., 0]
    # Differences are wrong near a kink, or where the third derivative is large: the best of several
    # lengths counts.
    errors = []
    for length in LENGTHS:
        ends = [rule.adapt(theta + e * length * scale * direction, support)[0] for e in (1, -1)]
        difference = (ends[0] - ends[1]) / (2.0 * length * scale)
        moved = np.matmul(rows, difference[..., None])[..., 0]
        straight = np.abs(np.matmul(rows, direction[..., None])[..., 0])
        total = max(straight.max(), np.abs(moved).max(), 1e-300)
        errors.append(float(np.abs(moved - pulled).max() / total))
    return min(errors)


def affine_error(rule, theta, support, seed=0):
    """By how much ``A(theta + v) + A(theta - v)`` differs from ``2 A(theta)``, relatively."""
    v = np.random.default_rng(seed).normal(size=theta.shape) * max(1.0, np.abs(theta).max())
    middle, *ends = (rule.adapt(at, support)[0] for at in (theta, theta + v, theta - v))
    return float(np.abs(ends[0] + ends[1] - 2.0 * middle).max() / np.abs(ends[0] - ends[1]).max())
