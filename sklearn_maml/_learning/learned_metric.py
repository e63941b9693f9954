"""What was learned of a proximal rule."""

from dataclasses import dataclass, replace

import numpy as np

__all__ = ["LearnedMetric"]


@dataclass(frozen=True, eq=False)
class LearnedMetric:
    """What `Proximal` learned from the training tasks, and how; ``print`` tells it.

    Parameters are those of the features, the intercept last. `residual_variance` and what follows
    it up to `singular` are those of the mixed model, and None for other criteria.

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
    singular : bool
        Whether some direction has no variance.
    n_factors : int
        Of a metric of low rank, beside the diagonal.
    n_iter : int
    converged : bool
    """

    metric: str
    criterion: str | None
    reason: str
    strength: float
    varies: np.ndarray
    names: tuple
    covariance: np.ndarray | None = None
    residual_variance: np.ndarray | None = None
    fixed_effects: np.ndarray | None = None
    log_likelihood: float | None = None
    singular: bool | None = None
    n_iter: int = 0
    converged: bool = True
    n_factors: int = 0

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
            singular=model.singular,
            n_iter=model.n_iter,
            converged=model.converged,
        )

    def __str__(self):
        how = {"reml": " by REML", "query": " on the query loss", None: ""}[self.criterion]
        lines = [
            f"Proximal adaptation, metric {self.metric}{how}: {self.reason}.",
            f"  parameters that differ between tasks  {int(self.varies.sum())} of "
            f"{len(self.varies)}",
            f"  strength                              {self.strength:.4g} row(s)",
        ]
        if self.log_likelihood is not None:
            noise = _short(np.sqrt(self.residual_variance))
            lines += [
                f"  log restricted likelihood             {self.log_likelihood:.6g}",
                f"  residual standard deviation           {noise}",
                f"  fixed effects                         {_short(self.fixed_effects)}",
            ]
        if self.covariance is not None:
            deviation = np.sqrt(np.diagonal(self.covariance))
            lines.append(f"  standard deviations between tasks     {_short(deviation)}")
        if self.singular:
            lines.append("  the covariance is singular: a direction has no variance")
        return "\n".join(lines)


def _short(values):
    """Numbers with four digits."""
    return np.array2string(np.asarray(values), precision=4)
