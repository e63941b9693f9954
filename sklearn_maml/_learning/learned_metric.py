"""What was learned of a proximal rule."""

from dataclasses import dataclass, replace
from html import escape

import numpy as np

from sklearn_maml._report import LEFT, html_rows, text_rows

__all__ = ["LearnedMetric"]

# A log likelihood need be no more exact than this.
NEGLIGIBLE = 1e-6

# Correlations of more parameters than these, and more parameters, are left to `to_frame`.
MANY_CORRELATIONS, MANY_ROWS = 6, 30


@dataclass(frozen=True, eq=False)
class LearnedMetric:
    """What `Proximal` learned from the training tasks, and how: print it, or take `to_frame`.

    Parameters are those of the features, the intercept last. `residual_variance` and what follows
    it up to `intraclass_correlation` are those of the mixed model, and None for other criteria.

    Attributes
    ----------
    metric : str
        "identity", "intercept", "diagonal", "low_rank", "full", or "given".
    criterion : {"reml", "query"} or None
        None where nothing but the strength was to be learned.
    reason : str
        Why these were chosen.
    strength : float
        The strength in use, in rows; 1 is what the criterion itself found.
    varies : ndarray of bool, shape (d,)
        Parameters that differ between tasks.
    names : tuple of str
        Of the d parameters: those of the features where they are known, "intercept" for the last.
    covariance : ndarray of shape (d, d)
        Of the task parameters: by "reml" that of the random effects (of the first target), before
        `strength` was chosen; otherwise Sigma, of which `strength` says how much it weighs.
    residual_variance : ndarray of shape () or (n_targets,)
    fixed_effects : ndarray of shape (d,) or (n_targets, d)
    log_likelihood : float
        Log restricted likelihood, summed over targets.
    newton_decrement : float
        How near Sigma is to a local maximum of the restricted likelihood: by how much a Newton step
        would raise `log_likelihood`, to second order, ``-g' H^-1 g / 2`` with the gradient and the
        Hessian in a root of Sigma. Infinite where the likelihood is not concave there, so that it
        is no local maximum; None for a metric of low rank with factors, and for other criteria.
    singular : bool
        Whether some direction has no variance.
    intraclass_correlation : float
        The share of the variance between tasks in that of a row, given its features, on average
        over rows. Where only intercepts differ it is the classical one.
    n_factors : int
        Of a metric of low rank, beside the diagonal.
    n_iter : int
    converged : bool
    starts : tuple of int
        Numbers of first rows after which tasks start from elsewhere than the meta-parameters.

    References
    ----------
    Johnson, "Extension of Nakagawa & Schielzeth's R2GLMM to random slopes models", Methods in
    Ecology and Evolution 5, 2014: the intraclass correlation.

    Examples
    --------
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> tasks = make_linear_tasks(n_features=1, task_spread=0.5, random_state=0)
    >>> learned = MAMLRegressor(random_state=0).fit(tasks).learned_
    >>> learned.metric, learned.criterion, learned.converged
    ('full', 'reml', True)
    >>> (learned.covariance.diagonal() ** 0.5).round(2)  # tasks were made to differ by 0.5
    array([0.5 , 0.51])
    """

    metric: str
    criterion: str | None
    reason: str
    strength: float
    varies: np.ndarray
    names: tuple
    covariance: np.ndarray | None = None
    residual_variance: np.ndarray | float | None = None
    fixed_effects: np.ndarray | None = None
    log_likelihood: float | None = None
    newton_decrement: float | None = None
    singular: bool | None = None
    intraclass_correlation: float | None = None
    n_iter: int = 0
    converged: bool = True
    n_factors: int = 0
    starts: tuple = ()

    def of_model(self, metric, model, n_targets):
        """The same with what a mixed model says.

        Parameters
        ----------
        metric : Metric
            Covariance of its random effects in units of the residual variance.
        model : MixedModel
        n_targets : int
            0 where targets have one axis.
        """
        first = 0 if n_targets == 0 else slice(None)
        return replace(
            self,
            covariance=metric.covariance * model.noise[0],
            residual_variance=model.noise[first],
            fixed_effects=model.fixed[first],
            log_likelihood=model.log_likelihood,
            newton_decrement=model.decrement,
            singular=model.singular,
            intraclass_correlation=model.between / (1.0 + model.between),
            n_iter=model.n_iter,
            converged=model.converged,
        )

    @property
    def optimality(self):
        """What is known of Sigma as an optimum, for a certificate; None where nothing was learned.

        Returns
        -------
        (str, str) or None
            What is assumed, and how far it was checked.
        """
        if self.criterion is None or self.covariance is None:
            return None
        if self.newton_decrement is None:
            likely = "the restricted likelihood"
            likely += " of working responses" if self.log_likelihood is None else ""
            what = likely if self.criterion == "reml" else "the query loss"
            return (
                f"Sigma, as it was learned, is a local optimum of {what}",
                "not measured; that it is the best Sigma is not claimed",
            )
        what = "Sigma, as it was learned, is a local optimum of the restricted likelihood"
        if not np.isfinite(self.newton_decrement):
            return what, "not so: the likelihood is not concave there"
        return what, (
            f"checked: a Newton step would raise its logarithm by {self._decrement()}; that it is "
            "the best Sigma is not claimed"
        )

    def _decrement(self):
        """The Newton decrement in words, where it is no more than rounding."""
        small = self.newton_decrement < NEGLIGIBLE
        return f"less than {NEGLIGIBLE:g}" if small else f"{self.newton_decrement:.2g}"

    @property
    def deviations(self):
        """Standard deviations between tasks of the d parameters, 0 where they do not differ."""
        return np.sqrt(np.maximum(np.diagonal(self.covariance), 0.0))

    @property
    def correlations(self):
        """Of the d parameters between tasks, (d, d); NaN with one that does not differ."""
        size = np.outer(self.deviations, self.deviations)
        return np.where(size > 0, self.covariance / np.where(size > 0, size, 1.0), np.nan)

    def to_frame(self):
        """Fixed effects, variances, deviations and correlations as a `pandas.DataFrame`.

        Returns
        -------
        pandas.DataFrame
            One row a parameter, and by REML one for the residual of each target. Columns:
            "fixed_effect" (one for each target), "variance", "std_dev", and a correlation with
            each parameter that differs between tasks.

        Raises
        ------
        ValueError
            If no covariance was learned.
        """
        import pandas as pd

        if self.covariance is None:
            raise ValueError(f"No covariance was learned of the metric {self.metric!r}.")
        frame = pd.DataFrame(index=list(self.names))
        for name, effects in self._fixed_columns():
            frame[name.replace(" ", "_")] = effects
        frame["variance"], frame["std_dev"] = np.diagonal(self.covariance), self.deviations
        for j in np.flatnonzero(self.varies):
            frame[f"corr_{self.names[j]}"] = self.correlations[:, j]
        for name, variance in self._residuals():
            frame.loc[name, ["variance", "std_dev"]] = variance, np.sqrt(variance)
        return frame

    def _fixed_columns(self):
        """(name, fixed effects) for each target."""
        if self.fixed_effects is None:
            return []
        if self.fixed_effects.ndim == 1:
            return [("fixed effect", self.fixed_effects)]
        return [(f"fixed effect {t}", effects) for t, effects in enumerate(self.fixed_effects)]

    def _residuals(self):
        """(name, variance) of the residuals of each target."""
        if self.residual_variance is None:
            return []
        if np.ndim(self.residual_variance) == 0:
            return [("residual", float(self.residual_variance))]
        return [(f"residual {t}", float(s)) for t, s in enumerate(self.residual_variance)]

    def _facts(self):
        """(name, text) of what is one number or one word."""
        differ = f"{int(self.varies.sum())} of {len(self.varies)}"
        rows = [
            ("parameters that differ between tasks", differ),
            ("strength", f"{self.strength:.4g} row(s)"),
        ]
        if self.log_likelihood is not None:
            rows.append(("log restricted likelihood", f"{self.log_likelihood:.6g}"))
            if self.newton_decrement is not None:
                rows.append(("  a Newton step would raise it by", self._decrement()))
            rows.append(("intraclass correlation", f"{self.intraclass_correlation:.4g}"))
        if self.starts:
            after = ", ".join(map(str, self.starts))
            rows.append(("a starting point of its own", f"after {after} first row(s)"))
        if self.singular:
            rows.append(("singular", "the covariance is: a direction has no variance"))
        return rows

    def _table(self):
        """Rows of text: a header, the parameters, the residuals; correlations with those above."""
        if self.covariance is None:
            return []
        differ = np.flatnonzero(self.varies)
        others = differ[:-1] if len(differ) <= MANY_CORRELATIONS else []
        fixed = self._fixed_columns()
        table = [("", *(name for name, _ in fixed), "variance", "std. dev.")]
        table[0] += tuple(f"corr {self.names[k]}" for k in others)
        for j, name in enumerate(self.names[:MANY_ROWS]):
            row = [name, *(f"{effects[j]:.4g}" for _, effects in fixed)]
            if self.varies[j]:
                row += [f"{self.covariance[j, j]:.4g}", f"{self.deviations[j]:.4g}"]
                row += [f"{self.correlations[j, k]:.2f}" for k in others if k < j]
            table.append(tuple(row))
        if len(self.names) > MANY_ROWS:
            table.append((f"({len(self.names) - MANY_ROWS} more: see to_frame)",))
        for name, variance in self._residuals():
            table.append((name, *[""] * len(fixed), f"{variance:.4g}", f"{np.sqrt(variance):.4g}"))
        return [row + ("",) * (len(table[0]) - len(row)) for row in table]

    def _title(self):
        how = {"reml": " by REML", "query": " on the query loss", None: ""}[self.criterion]
        return f"Proximal adaptation, metric {self.metric}{how}: {self.reason}."

    def __str__(self):
        facts = [f"  {name:<38}{text}" for name, text in self._facts()]
        return "\n".join([self._title(), *facts, *text_rows(self._table())])

    def _repr_html_(self):
        """The same as tables, for notebooks."""
        caption = f"<caption {LEFT}>{escape(self._title())}</caption>"
        facts, cells = html_rows(self._facts(), LEFT), html_rows(self._table())
        return (
            f"<table>{caption}<tbody>{facts}</tbody></table><table><tbody>{cells}</tbody></table>"
        )
