"""Where the minimisers are: ellipsoids that hold every theta with a small L (Theorems 2 and 2b)."""

import numpy as np

from sklearn_maml._linalg import flat_vecmat, matvec
from sklearn_maml.certificate.regions import Ellipsoid, extremes
from sklearn_maml.certificate.slope_problem import gram
from sklearn_maml.certificate.slopes import curvature_least, strip

__all__ = ["first_ball", "shrunken_ellipsoid"]

# Radii of the first ball: doubled from the first until one will do, then refined so often.
FIRST_RADIUS, DOUBLINGS, REFINEMENTS = 0.5, 16, 4

# On the sphere a row's convex function is compared with a parabola at so many points.
GRID = np.linspace(0.0, 1.0, 33)

# Flatter directions than this share of the steepest have no ellipsoid.
CURVED = 1e-12


def first_ball(problem, point, excess):
    """Theorem 2b: a ball outside of which L exceeds the relaxation's bound by more than `excess`.

    A sum of convex functions of the query rows exceeds it on the sphere, hence beyond.

    Parameters
    ----------
    problem : SlopeProblem
    point : Point
        Of "Theorem 1, everywhere".
    excess : float
        L(omega) less the bound.

    Returns
    -------
    Ellipsoid or None
        None where some direction is not curved, or no radius is found.
    """
    hessian = 2.0 * problem.A
    rows = []
    for stack, s, nu in zip(problem.stacks, point.slopes, point.duals, strict=True):
        z = stack.query_predictions(point.x, s)
        least, most = stack.loss.slope_range(stack.y)
        moved = extremes(stack.C, stack.masked(least - s), stack.masked(most - s))
        rows.append((stack, z, moved, nu, stack.loss.dual(stack.y_query, nu)))
        curvature = stack.row_weight * stack.loss.hessian(stack.y_query, z)
        hessian = hessian + gram(stack.Phi, curvature)
    values, vectors = np.linalg.eigh(hessian)
    inside = sum(
        (stack.row_weight * _row_excess(0.0, stack.loss, stack.y_query, *rest)).sum()
        for stack, *rest in rows
    )
    if not (values[0] > CURVED * values[-1] and inside <= excess):
        return None
    V = vectors / np.sqrt(values)
    wide_enough = lambda r: _exceeds(problem, rows, V, r, excess)  # noqa: E731
    radius = next((r for r in FIRST_RADIUS * 2.0 ** np.arange(DOUBLINGS) if wide_enough(r)), None)
    if radius is None:
        return None
    low = 0.5 * radius
    for _ in range(REFINEMENTS):
        middle = np.sqrt(low * radius)
        low, radius = (low, middle) if wide_enough(middle) else (middle, radius)
    return Ellipsoid(point.x, V, float(radius))


def _exceeds(problem, rows, V, radius, excess):
    """Whether the minorant exceeds `excess` all over the sphere of this radius."""
    quadratic, constant = 2.0 * problem.A, 0.0
    for stack, z, moved, nu, floor in rows:
        reach = radius * np.sqrt(np.square(stack.Phi @ V).sum(axis=-1))
        args = stack.loss, stack.y_query, z, moved, nu, floor
        beta, tau = _parabola(reach, *args)
        quadratic = quadratic + gram(stack.Phi, 2.0 * stack.row_weight * beta)
        constant += (stack.row_weight * tau).sum()
    least = np.linalg.eigvalsh(V.T @ quadratic @ V)[0]
    return 0.5 * least * radius**2 - constant > excess


def _parabola(reach, *args):
    """``beta, tau`` with ``g(x) >= beta x^2 - tau`` for ``|x| <= reach``, for each query row."""
    edge = np.minimum(_row_excess(reach, *args), _row_excess(-reach, *args))
    square = np.square(np.maximum(reach, 1e-100))
    beta = np.where(reach > 1e-100, 0.7 * edge / square, 0.0)
    tau = np.zeros_like(reach)
    for sign in (1.0, -1.0):
        before, least = np.zeros_like(reach), np.zeros_like(reach)
        for far in GRID[1:]:
            tau = np.maximum(tau, beta * np.square(far * reach) - least)
            # g is convex: once it rises it goes on rising; until then it is only not negative.
            after = _row_excess(sign * far * reach, *args)
            before, least = after, np.where(after >= before, after, 0.0)
    return beta, tau


def _row_excess(x, loss, y, z, moved, nu, floor):
    """``g(x)``: the least ``l - nu z - inf(l - nu z)`` over the interval ``z + x - moved``."""
    low, high = z + x - moved[1], z + x - moved[0]
    inside = (loss.gradient(y, low) <= nu) & (nu <= loss.gradient(y, high))
    ends = [loss.value(y, end) - nu * end - floor for end in (low, high)]
    return np.where(inside, 0.0, np.maximum(np.minimum(*ends), 0.0))


def shrunken_ellipsoid(problem, intervals, point, excess):
    """Theorem 2: an ellipsoid that holds every admissible x with ``L(x) <= bound + excess``.

    Parameters
    ----------
    problem : SlopeProblem
    intervals : list of Intervals
    point : Point
        Of Theorem 1 on these intervals.
    excess : float

    Returns
    -------
    Ellipsoid or None
    """
    quadratic, linear, constant, noise = 2.0 * problem.A, 0.0, 0.0, 0.0
    for stack, known, s in zip(problem.stacks, intervals, point.slopes, strict=True):
        u, z = stack.support_predictions(point.x, s), stack.query_predictions(point.x, s)
        slope, level, half = (
            stack.masked(a) for a in strip(stack.loss, stack.y, known.low, known.high)
        )
        offset = stack.masked(level + slope * (u - known.low) - s)
        inner = known.z_low, known.z_high
        curvature = curvature_least(
            stack.loss, stack.y_query, z, np.minimum(inner[0], z), np.maximum(inner[1], z)
        )
        weight = np.where(stack.b > 0, stack.row_weight * curvature, 0.0)
        C = stack.C
        if stack.B is not None:  # C (I + slope B)^-1
            C = np.matmul(C, np.linalg.inv(np.eye(slope.shape[1]) + slope[..., None] * stack.B))
        Psi = stack.Phi - np.matmul(C, slope[..., None] * stack.F)
        moved, error = matvec(C, offset), matvec(np.abs(C), half)
        quadratic = quadratic + gram(Psi, weight)
        linear = linear + flat_vecmat(weight * moved, Psi)
        constant += (weight * np.square(moved)).sum()
        noise += (weight * np.square(error)).sum()
    values, vectors = np.linalg.eigh(quadratic)
    if not values[0] > CURVED * values[-1]:
        return None
    away = np.linalg.solve(quadratic, linear)
    square = (np.sqrt(2.0 * max(excess, 0.0)) + np.sqrt(noise)) ** 2 - constant + linear @ away
    radius = np.sqrt(max(square, 0.0) + 1e-12 * (constant + abs(linear @ away)))
    return Ellipsoid(point.x + away, vectors / np.sqrt(values), float(radius))
