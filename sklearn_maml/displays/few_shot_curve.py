"""Errors on new tasks after so many rows, drawn."""

from typing import Any, Self

from sklearn_maml._typing import Axes, PerRow, Random, Shots, Tasks
from sklearn_maml.displays.display import Display, plain_log_scale
from sklearn_maml.model_selection import few_shot_curve
from sklearn_maml.model_selection.baselines import own_ridge, pooled_task_errors
from sklearn_maml.model_selection.errors import MISCOVERAGE
from sklearn_maml.model_selection.few_shot import FewShotCurve

__all__ = ["FewShotCurveDisplay"]


class FewShotCurveDisplay(Display):
    """Error on new tasks against the number of rows adapted to, with what one would do otherwise.

    Parameters
    ----------
    curve : FewShotCurve
        Of the model.
    prior : float
        Mean error of the meta-parameters, unadapted.
    own : FewShotCurve, default=None
        Of a regression on each task's support rows alone.
    pooled : float, default=None
        Mean error of one regression for all tasks.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> from sklearn_maml.displays import FewShotCurveDisplay
    >>> tasks = make_linear_tasks(n_tasks=60, random_state=0)
    >>> model = MAMLRegressor(support=5, random_state=0).fit(tasks[:40])
    >>> display = FewShotCurveDisplay.from_estimator(model, tasks[40:])
    >>> display.curve.mean.shape
    (5,)
    """

    def __init__(
        self,
        curve: FewShotCurve,
        prior: float,
        own: FewShotCurve | None = None,
        pooled: float | None = None,
    ) -> None:
        self.curve, self.prior, self.own, self.pooled = curve, prior, own, pooled

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        tasks: Tasks,
        y: PerRow = None,
        *,
        groups: PerRow = None,
        supports: Shots = (0, 1, 3, 5, 10),
        pooled: Any = None,
        n_draws: int = 10,
        metric: str | None = None,
        coverage: float = 0.9,
        random_state: Random | None = 0,
        ax: Axes | None = None,
    ) -> Self:
        """Compute and draw the curve of a model, and of the alternatives.

        Parameters
        ----------
        estimator : MAMLRegressor, MAMLClassifier, Pipeline that ends in one, or search over these
            Fitted, on other tasks.
        tasks, y, groups, supports
            As in `sklearn_maml.model_selection.few_shot_curve`.
        pooled : regressor, default=None
            One regression for all tasks, fitted on the training rows; drawn as a level line. It
            is given the rows of `tasks` as they are.
        n_draws, metric, coverage, random_state
            As in `sklearn_maml.model_selection.few_shot_curve`. A regression on each task's rows
            alone has no "miscoverage": there is no such curve.
        ax : matplotlib Axes, default=None

        Returns
        -------
        FewShotCurveDisplay
        """
        shared: dict[str, Any] = {"groups": groups, "n_draws": n_draws, "metric": metric}
        shared |= {"coverage": coverage, "random_state": random_state}
        curve = few_shot_curve(estimator, tasks, y, supports=supports, **shared)
        (prior,) = few_shot_curve(estimator, tasks, y, supports=[0], **shared).mean
        shots = [k for k in supports if k > 0]
        alone = {**shared, "supports": shots, "adaptation": own_ridge(estimator)}
        alone_too = shots and curve.metric != MISCOVERAGE  # a ridge has no intervals
        own = few_shot_curve(estimator, tasks, y, **alone) if alone_too else None
        if pooled is not None:
            pooled = pooled_task_errors(estimator, pooled, tasks, y, groups, metric).mean()
        return cls(curve, prior, own, pooled).plot(ax=ax)

    def _draw(self, ax):
        if self.pooled is not None:
            ax.axhline(self.pooled, color="tab:gray", linestyle="--", label="pooled fit")
        ax.axhline(self.prior, color="tab:blue", linestyle=":", label="meta-parameters, unadapted")
        if self.own is not None:
            label = "ridge on the task's rows alone"
            _error_bars(ax, self.own, label, fmt="s--", color="tab:orange")
        _error_bars(ax, self.curve, "adapted", fmt="o-", color="tab:blue")
        levels = [self.prior, *self.curve.mean, self.pooled or 0.0]
        top = max(levels)
        if self.own is not None and self.own.mean.max() > 4 * top:
            plain_log_scale(ax)
        else:
            ax.set_ylim(bottom=0)
        n_tasks = self.curve.task_errors.shape[1]
        ax.set(
            xticks=self.curve.supports,
            xlabel="rows of the new task adapted to",
            ylabel=f"{self.curve.metric.replace('_', ' ')} on its other rows",
            title=f"{n_tasks} tasks, mean ± standard error",
        )


def _error_bars(ax, curve, label, **style):
    ax.errorbar(curve.supports, curve.mean, curve.standard_error, capsize=3, label=label, **style)
