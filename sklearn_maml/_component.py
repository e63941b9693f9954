"""Interchangeable parts: objects that hold hyperparameters and are chosen by name or instance."""

from inspect import signature
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state

__all__ = [
    "Component",
    "Documented",
    "check_bool",
    "check_int",
    "check_n_jobs",
    "check_number",
    "check_option",
    "check_scale",
    "random_of",
    "resolve",
]


class Documented:
    """An estimator whose picture in a notebook links to its page in the documentation.

    The address is that of the pages built in a clone, from a notebook at its top. With an address
    scikit-learn from 1.9 on also shows what each parameter is.
    """

    _doc_link_module = "sklearn_maml"
    _doc_link_template = "docs/_build/generated/sklearn_maml.{estimator_name}.html"


class Component(Documented, BaseEstimator):
    """A loss, an adaptation rule or a solver: hyperparameters only, nothing fitted.

    Being a scikit-learn ``BaseEstimator`` it can be cloned, and a grid search reaches its
    hyperparameters (``adaptation__n_steps``).
    """

    def validate(self) -> None:
        """Check the hyperparameters; a leaf that has some overrides this.

        Raises
        ------
        TypeError, ValueError
            Naming the hyperparameter, what it was and what it may be.
        """

    @classmethod
    def examples(cls) -> list[Any]:
        """Instances by which tests try whatever is registered; one with the defaults, by default.

        A class with an argument that has no default, or with parameters to learn, gives others.

        Returns
        -------
        list of Component
            Rules for rows of three features, the last of them 1 for the intercept.
        """
        return [cls()]


def resolve(option, registry, kind, parameter):
    """Return the component that `option` names, or `option` itself if it is one.

    Parameters
    ----------
    option : str or Component
        A key of `registry`, or an instance of `kind`.
    registry : dict of str to type
        The classes that a name can stand for.
    kind : type
        The base class that an instance must have.
    parameter : str
        The constructor parameter that `option` was given for; errors name it.

    Returns
    -------
    Component
        Validated; never a copy of an instance.

    Raises
    ------
    ValueError
        If the name is not in the registry, or is that of a class with an argument to be given.
    TypeError
        If `option` is neither a name nor an instance of `kind`.
    """
    if isinstance(option, str):
        if option not in registry:
            names = "".join(f"{name!r}, " for name in sorted(registry))
            raise ValueError(
                f"{parameter}={option!r} is not known; expected {names and 'one of '}{names}"
                f"{names and 'or '}an instance of {kind.__name__}."
            )
        option = _made(option, registry[option], parameter)
    if not isinstance(option, kind):
        raise TypeError(
            f"{parameter} must be a name or an instance of {kind.__name__}; "
            f"got {option!r} of type {type(option).__name__}."
        )
    option.validate()
    return option


def _made(name, cls, parameter):
    """An instance with the defaults; an argument without one asks for an instance."""
    try:
        return cls()
    except TypeError:  # to look at the signature first would cost more than a small fit's solver
        pass
    required = [p.name for p in signature(cls).parameters.values() if p.default is p.empty]
    given = ", ".join(f"{argument}=..." for argument in required)
    raise ValueError(
        f"{parameter}={name!r} leaves arguments without a default; pass an instance, "
        f"{parameter}={cls.__name__}({given})."
    )


def check_number(name, value, low=0, *, above=False):
    """Raise unless `value` is a finite number, at least `low` (or above it)."""
    message = f"{name} must be a finite number {'>' if above else '>='} {low}; got {value!r}."
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(message)
    try:
        number = float(value)
    except OverflowError:  # an int beyond the range of float64
        number = np.inf
    if not low <= number < np.inf or (above and number == low):
        raise ValueError(message)


def check_scale(name, value):
    """Raise unless `value` is a positive number whose square and its inverse are float64."""
    check_number(name, value, above=True)
    if not 1e-100 <= value <= 1e100:
        raise ValueError(
            f"{name} must be between 1e-100 and 1e+100; got {value!r}. Rescale y, and it with y."
        )


def check_int(name, value, low=1):
    """Raise unless `value` is an int, at least `low`."""
    message = f"{name} must be an int >= {low}; got {value!r}."
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(message)
    if value < low:
        raise ValueError(message)


def check_bool(name, value):
    """Raise unless `value` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False; got {value!r}.")


def check_option(name, value, options):
    """Raise unless `value` is one of a few words."""
    if not isinstance(value, str) or value not in options:
        *first, last = map(repr, options)
        raise ValueError(f"{name} must be {', '.join(first)} or {last}; got {value!r}.")


def check_n_jobs(n_jobs):
    """Raise unless `n_jobs` is None or a number of workers, as joblib counts them."""
    message = f"n_jobs must be None or an int other than 0; got {n_jobs!r}."
    if n_jobs is not None:
        if isinstance(n_jobs, bool) or not isinstance(n_jobs, Integral):
            raise TypeError(message)
        if n_jobs == 0:
            raise ValueError(message)


def random_of(random_state):
    """The `RandomState` that `random_state` stands for; errors name the parameter."""
    try:
        return check_random_state(random_state)
    except ValueError as error:
        raise ValueError(f"random_state={random_state!r}: {error}") from None
