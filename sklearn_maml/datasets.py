"""Families of tasks to try things on, and a loader that turns a DataFrame into tasks.

Each function returns a list of tasks, every task a tuple ``(X, y)``, which is what
`MAMLRegressor.fit` takes.
"""

from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike

from sklearn_maml._component import check_bool, check_int, check_number, random_of
from sklearn_maml._tasks.frames import tasks_from_frame
from sklearn_maml._typing import Floats, Random, Size

__all__ = ["make_linear_tasks", "make_sinusoid_tasks", "tasks_from_frame"]


@overload
def make_linear_tasks(
    n_tasks: int = ...,
    n_samples: Size = ...,
    n_features: int = ...,
    *,
    task_spread: float = ...,
    noise: float = ...,
    condition: float = ...,
    theta: ArrayLike | None = ...,
    return_theta: Literal[False] = ...,
    random_state: Random | None = ...,
) -> list[tuple[Floats, Floats]]: ...
@overload
def make_linear_tasks(
    n_tasks: int = ...,
    n_samples: Size = ...,
    n_features: int = ...,
    *,
    task_spread: float = ...,
    noise: float = ...,
    condition: float = ...,
    theta: ArrayLike | None = ...,
    return_theta: Literal[True],
    random_state: Random | None = ...,
) -> tuple[list[tuple[Floats, Floats]], Floats, Floats]: ...
def make_linear_tasks(
    n_tasks: int = 100,
    n_samples: Size = 20,
    n_features: int = 5,
    *,
    task_spread: float = 0.5,
    noise: float = 0.1,
    condition: float = 1.0,
    theta: ArrayLike | None = None,
    return_theta: bool = False,
    random_state: Random | None = None,
) -> Any:
    """Make linear regression tasks that scatter about known meta-parameters.

    Task i has parameters ``theta_i = theta + task_spread * g_i`` with g_i standard normal, and rows
    ``y = x' coef_i + intercept_i + noise * e`` with e standard normal, x normal with mean 0. The
    scatter and the noise have mean 0 whatever the inputs are, and adaptation by gradient steps or
    by a proximal rule on the squared loss is affine in the parameters: so ``theta`` minimises the
    expected meta-objective of such a rule, for any step, any number of steps and any support.

    Parameters
    ----------
    n_tasks : int, default=100
        Number of tasks.
    n_samples : int or tuple of (int, int), default=20
        Rows of a task; ``(low, high)`` draws each task's number uniformly, both ends included.
    n_features : int, default=5
        Number of features d.
    task_spread : float, default=0.5
        Standard deviation of a task's parameters about ``theta``, the intercept included.
    noise : float, default=0.1
        Standard deviation of the noise in y.
    condition : float, default=1.0
        Condition number of the covariance matrix of the features, at least 1. Its eigenvalues fall
        from 1 to ``1 / condition`` geometrically, along random directions that all tasks share.
    theta : array-like of shape (n_features + 1,), default=None
        Meta-parameters, the intercept last. None draws them from a standard normal distribution.
        Give the same ``theta`` twice to draw new tasks of a family; with ``condition`` above 1 the
        directions of the features still differ from one ``random_state`` to another.
    return_theta : bool, default=False
        Whether to return ``theta`` and the parameters of the tasks too.
    random_state : int, RandomState instance or None, default=None
        Seed for all that is random; pass an int for the same tasks at every call.

    Returns
    -------
    tasks : list of tuples (X, y)
        X of shape (n_samples, n_features), y of shape (n_samples,).
    theta : ndarray of shape (n_features + 1,)
        The meta-parameters, the intercept last. Only if ``return_theta=True``.
    task_theta : ndarray of shape (n_tasks, n_features + 1)
        The parameters of each task, the intercept last. Only if ``return_theta=True``.

    Raises
    ------
    ValueError, TypeError
        If an argument is outside its range, or ``theta`` has another shape.

    See Also
    --------
    make_sinusoid_tasks : Tasks that no linear function of x fits.

    Examples
    --------
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> tasks, theta, task_theta = make_linear_tasks(
    ...     n_tasks=3, n_samples=(5, 8), n_features=2, return_theta=True, random_state=0
    ... )
    >>> len(tasks), theta.shape, task_theta.shape
    (3, (3,), (3, 3))
    >>> all(5 <= len(y) <= 8 for X, y in tasks)
    True
    """
    check_int("n_tasks", n_tasks, 1)
    check_int("n_features", n_features, 1)
    for name, value in (("task_spread", task_spread), ("noise", noise)):
        check_number(name, value, 0)
    check_number("condition", condition, 1)
    check_bool("return_theta", return_theta)
    rng = random_of(random_state)
    theta = _meta_parameters(theta, n_features, rng)
    task_theta = theta + task_spread * rng.standard_normal((n_tasks, n_features + 1))
    root = _covariance_root(n_features, condition, rng)
    tasks = [
        _linear_task(rng.standard_normal((size, n_features)) @ root, parameters, noise, rng)
        for size, parameters in zip(_sizes(n_samples, n_tasks, rng), task_theta, strict=True)
    ]
    return (tasks, theta, task_theta) if return_theta else tasks


@overload
def make_sinusoid_tasks(
    n_tasks: int = ...,
    n_samples: Size = ...,
    *,
    noise: float = ...,
    amplitude: tuple[float, float] = ...,
    phase: tuple[float, float] = ...,
    x_range: tuple[float, float] = ...,
    return_parameters: Literal[False] = ...,
    random_state: Random | None = ...,
) -> list[tuple[Floats, Floats]]: ...
@overload
def make_sinusoid_tasks(
    n_tasks: int = ...,
    n_samples: Size = ...,
    *,
    noise: float = ...,
    amplitude: tuple[float, float] = ...,
    phase: tuple[float, float] = ...,
    x_range: tuple[float, float] = ...,
    return_parameters: Literal[True],
    random_state: Random | None = ...,
) -> tuple[list[tuple[Floats, Floats]], Floats]: ...
def make_sinusoid_tasks(
    n_tasks: int = 100,
    n_samples: Size = 20,
    *,
    noise: float = 0.0,
    amplitude: tuple[float, float] = (0.1, 5.0),
    phase: tuple[float, float] = (0.0, np.pi),
    x_range: tuple[float, float] = (-5.0, 5.0),
    return_parameters: bool = False,
    random_state: Random | None = None,
) -> Any:
    """Make the sinusoid regression tasks of Finn, Abbeel and Levine.

    Task i has ``y = A_i sin(x - phase_i) + noise * e``: the amplitude, the phase and x are uniform
    on their intervals, e is standard normal. The family is two-dimensional, as ``y = a_i sin(x) +
    b_i cos(x)``.

    Parameters
    ----------
    n_tasks : int, default=100
        Number of tasks.
    n_samples : int or tuple of (int, int), default=20
        Rows of a task; ``(low, high)`` draws each task's number uniformly, both ends included.
    noise : float, default=0.0
        Standard deviation of the noise in y.
    amplitude : tuple of (float, float), default=(0.1, 5.0)
        Interval of the amplitude.
    phase : tuple of (float, float), default=(0.0, pi)
        Interval of the phase, in radians.
    x_range : tuple of (float, float), default=(-5.0, 5.0)
        Interval of x.
    return_parameters : bool, default=False
        Whether to return the amplitudes and phases too.
    random_state : int, RandomState instance or None, default=None
        Seed for all that is random; pass an int for the same tasks at every call.

    Returns
    -------
    tasks : list of tuples (X, y)
        X of shape (n_samples, 1), y of shape (n_samples,).
    parameters : ndarray of shape (n_tasks, 2)
        Amplitude and phase of each task. Only if ``return_parameters=True``.

    Raises
    ------
    ValueError, TypeError
        If an argument is outside its range.

    References
    ----------
    C. Finn, P. Abbeel and S. Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep
    Networks", ICML 2017, section 5.1: the default intervals.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml.datasets import make_sinusoid_tasks
    >>> tasks, parameters = make_sinusoid_tasks(
    ...     n_tasks=2, n_samples=10, return_parameters=True, random_state=0
    ... )
    >>> X, y = tasks[0]
    >>> X.shape, y.shape, parameters.shape
    ((10, 1), (10,), (2, 2))
    >>> amplitude, phase = parameters[0]
    >>> bool(np.allclose(y, amplitude * np.sin(X[:, 0] - phase)))
    True
    """
    check_int("n_tasks", n_tasks, 1)
    check_number("noise", noise, 0)
    check_bool("return_parameters", return_parameters)
    intervals = [
        _interval(name, value)
        for name, value in (("amplitude", amplitude), ("phase", phase), ("x_range", x_range))
    ]
    rng = random_of(random_state)
    parameters = np.stack([rng.uniform(*ends, size=n_tasks) for ends in intervals[:2]], axis=1)
    tasks = []
    for size, (a, b) in zip(_sizes(n_samples, n_tasks, rng), parameters, strict=True):
        X = rng.uniform(*intervals[2], size=(size, 1))
        tasks.append((X, a * np.sin(X[:, 0] - b) + noise * rng.standard_normal(size)))
    return (tasks, parameters) if return_parameters else tasks


def _meta_parameters(theta, n_features, rng):
    """Meta-parameters of shape (n_features + 1,): those given, checked, or drawn."""
    if theta is None:
        return rng.standard_normal(n_features + 1)
    given = theta
    try:
        theta = np.array(np.nan if np.iscomplexobj(given) else given, dtype=float)
    except (TypeError, ValueError, OverflowError):
        theta = np.array(np.nan)
    if theta.shape != (n_features + 1,) or not np.isfinite(theta).all():
        raise ValueError(
            f"theta must be {n_features + 1} finite numbers, one for each of the {n_features} "
            f"features and the intercept last; got {given!r}."
        )
    return theta


def _covariance_root(n_features, condition, rng):
    """Symmetric root, (d, d), of a covariance with eigenvalues from 1 to 1 / condition."""
    directions = np.linalg.qr(rng.standard_normal((n_features, n_features)))[0]
    scales = np.geomspace(1.0, 1.0 / np.sqrt(condition), n_features)
    return (directions * scales) @ directions.T


def _linear_task(X, parameters, noise, rng):
    """One task (X, y) from inputs (m, d) and parameters (d + 1,), the intercept last."""
    y = X @ parameters[:-1] + parameters[-1] + noise * rng.standard_normal(len(X))
    return X, y


def _sizes(n_samples, n_tasks, rng):
    """Rows of each task, a list of ints of length n_tasks, from an int or (low, high)."""
    if not isinstance(n_samples, tuple | list):
        check_int("n_samples", n_samples, 1)
        return [n_samples] * n_tasks
    if len(n_samples) != 2:
        raise ValueError(f"n_samples must be an int or (low, high); got {n_samples!r}.")
    check_int("n_samples[0]", n_samples[0], 1)
    check_int("n_samples[1]", n_samples[1], n_samples[0])
    return rng.randint(n_samples[0], n_samples[1] + 1, size=n_tasks).tolist()


def _interval(name, ends):
    """Return the two ends of an interval as floats; raise ValueError unless finite and in order."""
    try:
        low, high = (float(end) for end in ends)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be two numbers (low, high); got {ends!r}.") from None
    if not -np.inf < low <= high < np.inf:
        raise ValueError(f"{name} must be finite, with low <= high; got {ends!r}.")
    return low, high
