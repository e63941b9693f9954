"""Random effects of tasks: by how much each differs from the meta-parameters, and how surely."""

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from sklearn_maml._estimators.prediction import feature_names_of, has_intercept, theta_of
from sklearn_maml._report import LEFT, html_rows, text_rows
from sklearn_maml._tasks.features import parameter_names
from sklearn_maml._typing import Array, Floats

__all__ = ["TaskEffects", "task_effects"]

# More tasks than these are left to `to_frame`.
MANY_TASKS = 30


@dataclass(frozen=True, eq=False)
class TaskEffects:
    """The random effects of tasks, with conditional standard errors; what `random_effects` returns.

    Print it, or take `to_frame`. It is lme4's ``ranef(condVar = TRUE)``, about the meta-parameters
    in place of the fixed effects.

    Attributes
    ----------
    tasks : ndarray of shape (n_tasks,)
        Labels; positions, for a list of tasks.
    features : tuple of str
        Of the effects that differ between tasks: features, and "intercept".
    deviations : ndarray of shape (n_tasks, n_effects) or (n_tasks, n_targets, n_effects)
        The tasks' parameters minus the meta-parameters, per unit of the features.
    standard_errors : ndarray of the same shape
        Standard deviations of the tasks' parameters given their rows, the meta-parameters, the
        covariance of the random effects and the residual variance.

    Examples
    --------
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> tasks = make_linear_tasks(n_tasks=60, n_features=2, random_state=0)
    >>> effects = MAMLRegressor(random_state=0).fit(tasks[:40]).adapt_tasks(tasks[40:])
    >>> effects = effects.random_effects()
    >>> effects.features, effects.deviations.shape
    (('x0', 'x1', 'intercept'), (20, 3))
    >>> bool((effects.standard_errors > 0).all())
    True
    """

    tasks: Array
    features: tuple[str, ...]
    deviations: Floats
    standard_errors: Floats

    def to_frame(self) -> Any:
        """The table as a `pandas.DataFrame`.

        Returns
        -------
        pandas.DataFrame
            One row a task; for each effect a column of its name, and one with ``se_`` before it
            for the standard errors. With more than one target, ``_0``, ``_1``, ... behind it.
        """
        import pandas as pd

        columns = {}
        for name, deviations, errors in self.columns():
            name = name.replace(" ", "_") if self.deviations.ndim == 3 else name
            columns[name], columns[f"se_{name}"] = deviations, errors
        return pd.DataFrame(columns, index=pd.Index(self.tasks, name="task"))

    def columns(self) -> list[tuple[str, Floats, Floats]]:
        """(name, deviations, standard errors) of each effect, of each target in turn.

        Returns
        -------
        list of (str, ndarray of shape (n_tasks,), ndarray of shape (n_tasks,))
        """
        if self.deviations.ndim == 2:
            return list(zip(self.features, self.deviations.T, self.standard_errors.T, strict=True))
        return [
            (f"{name} {t}", self.deviations[:, t, j], self.standard_errors[:, t, j])
            for t in range(self.deviations.shape[1])
            for j, name in enumerate(self.features)
        ]

    def _table(self):
        """Rows of text: a header, and the tasks."""
        columns, shown = self.columns(), range(min(len(self.tasks), MANY_TASKS))
        table = [("task", *(text for name, *_ in columns for text in (name, "s.e.")))]
        for i in shown:
            cells = (f"{values[i]:.4g}" for _, *pair in columns for values in pair)
            table.append((str(self.tasks[i]), *cells))
        if len(self.tasks) > MANY_TASKS:
            more = f"({len(self.tasks) - MANY_TASKS} more: see to_frame)"
            table.append((more, *[""] * (len(table[0]) - 1)))
        return table

    def _title(self):
        return f"Random effects of {len(self.tasks)} task(s), about the meta-parameters"

    def __str__(self):
        return "\n".join([self._title(), *text_rows(self._table())])

    __repr__ = __str__

    def _repr_html_(self):
        """The same as a table, for notebooks."""
        caption = f"<caption {LEFT}>{escape(self._title())}</caption>"
        return f"<table>{caption}<tbody>{html_rows(self._table())}</tbody></table>"


def task_effects(model, tasks, theta, information):
    """The `TaskEffects` of tasks that were adapted.

    Parameters
    ----------
    model : MAMLRegressor or MAMLClassifier
    tasks : ndarray of shape (n_tasks,)
        Labels.
    theta : ndarray of shape (n_tasks, d) or (n_tasks, n_targets, d)
        Parameters.
    information : ndarray of shape (n_tasks, k) or (n_tasks, n_targets, k), or None
        See ``MetaObjective.adapted``.

    Raises
    ------
    ValueError
        If the rule, the loss or what was kept leave no standard errors.
    """
    prior = _prior(model, theta.shape[-1])
    if information is None:
        raise ValueError(
            "random_effects needs what the rows tell of each task, which was not kept: with "
            f"{prior.shape[1]} parameters that differ between tasks it would have taken more than "
            "128 MiB. Call it on fewer tasks: adapt_tasks(...).random_effects()."
        )
    errors = _standard_errors(model, theta, information)
    varies = getattr(model.learned_, "varies", None)  # what a rule of one's own need not say
    varies = prior.any(axis=(0, 1)) if varies is None else varies
    names = parameter_names(
        feature_names_of(model, model.featurizer_), theta.shape[-1], has_intercept(model)
    )
    return TaskEffects(
        tasks,
        tuple(np.array(names, dtype=object)[varies]),
        (theta - theta_of(model))[..., varies],
        errors[..., varies],
    )


def _prior(model, n_parameters):
    """U of a task of which nothing is known; raises where the rule has none, or nothing differs."""
    prior = model.adaptation_.posterior(n_parameters)
    if prior is None:
        raise ValueError(
            "random_effects needs a rule that knows how tasks vary, such as adaptation='learned'; "
            f"{type(model.adaptation_).__name__} does not. Without standard errors the "
            "deviations are task_coef_ - coef_ and task_intercept_ - intercept_."
        )
    # A variance of zero that was learned is an answer, and has a covariance.
    if not prior.any() and getattr(model.learned_, "covariance", prior) is None:
        raise ValueError(
            "random_effects needs effects that may differ between tasks, but there are none: "
            f"{model.learned_.reason}."
        )
    return prior


def _standard_errors(model, theta, information):
    """The roots of the posterior variances of all d parameters, of the shape of theta."""
    flat = information.reshape(-1, information.shape[-1])
    unknown = model.adaptation_.posterior(theta.shape[-1], flat)
    variance = np.square(unknown).sum(axis=-2).reshape(*information.shape[:-1], -1)
    if theta.ndim > variance.ndim:  # for the squared error all targets share it
        variance = variance[:, None, :]
    return np.sqrt(_residual_variance(model, flat) * variance)


def _residual_variance(model, information):
    """What a posterior is to be multiplied by, to broadcast with (n_tasks, [n_targets,] d).

    The mixed model's where one was learned, as in lme4, times what the rule says of a task's own.
    The rule's noise is that of rows to come, which with ``split="first"`` lie ahead.
    """
    found = getattr(model.learned_, "residual_variance", None)
    if found is not None:
        ratio = np.asarray(model.adaptation_.noise_ratio(information))
        return np.asarray(found)[..., None] * ratio[..., None]
    if model.loss_.constant_hessian:
        noise, _ = model.adaptation_.uncertainty(theta_of(model).shape[-1], information)
        return noise[..., None]
    if model.loss_.dispersion is not None:
        # Minus a log density is l / dispersion = r^2 w / dispersion, with the weight w = l'' / 2 of
        # `Risk.square_about`: residuals r of a row of weight 1 have half the dispersion.
        return 0.5 * model.loss_.dispersion
    raise ValueError(
        f"random_effects has no standard errors for {model.loss_!r} with this rule: the loss "
        "leaves the dispersion of rows free, and no mixed model was learned that has it. Use "
        "Proximal(), or Proximal(metric='diagonal', criterion='reml')."
    )
