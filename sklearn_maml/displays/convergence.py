"""The meta-loss by iteration of the solver, drawn."""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from sklearn_maml._typing import Axes, PerRow, Tasks
from sklearn_maml.displays.display import Display, certificate_of, plain_log_scale
from sklearn_maml.model_selection.convergence import certified_path
from sklearn_maml.model_selection.pipelines import find_model

__all__ = ["ConvergenceDisplay"]


class ConvergenceDisplay(Display):
    """The meta-loss and the certified lower bound on its minimum, by iteration of the solver.

    Parameters
    ----------
    values : array-like of shape (n_values,)
        The meta-loss at the start and after each iteration.
    lower_bounds : float or array-like of shape (n_values,)
        No meta-parameters have a smaller meta-loss: as certified at each iteration (NaN where it
        was not), or in the end.

    Attributes
    ----------
    lower_bounds : ndarray of shape (n_values,)
        The best so far, which is what is drawn.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> from sklearn_maml.displays import ConvergenceDisplay
    >>> tasks = make_linear_tasks(n_tasks=40, random_state=0)
    >>> model = MAMLRegressor(solver="gradient_descent").fit(tasks)
    >>> display = ConvergenceDisplay.from_estimator(model, tasks)
    >>> bool((display.lower_bounds <= model.meta_loss_).all())
    True
    """

    def __init__(self, values: ArrayLike, lower_bounds: ArrayLike) -> None:
        self.values = np.asarray(values, dtype=float)
        self.lower_bounds = np.fmax.accumulate(np.broadcast_to(lower_bounds, self.values.shape))

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        tasks: Tasks | None = None,
        y: PerRow = None,
        *,
        groups: PerRow = None,
        sample_weight: PerRow = None,
        ax: Axes | None = None,
    ) -> Self:
        """Draw the convergence of a fit.

        Parameters
        ----------
        estimator : MAMLRegressor, MAMLClassifier, Pipeline that ends in one, or search over these
            Fitted.
        tasks, y, groups, sample_weight : default=None
            What it was fitted on. The solver then runs once more, and up to 50 of its iterates are
            certified. Without them the bound from the end of the fit is drawn throughout.
        ax : matplotlib Axes, default=None

        Returns
        -------
        ConvergenceDisplay

        Raises
        ------
        ValueError
            If these are not the tasks of the fit.
        """
        if tasks is None:
            model = find_model(estimator)
            values, bounds = model.meta_losses_, certificate_of(model).lower_bound
        else:
            values, bounds = certified_path(estimator, tasks, y, groups, sample_weight)
        return cls(values, bounds).plot(ax=ax)

    def _draw(self, ax):
        from matplotlib.ticker import MaxNLocator

        steps, (*_, best) = np.arange(len(self.values)), self.lower_bounds
        marker = "o-" if len(steps) <= 50 else "-"
        style = {"color": "black", "linestyle": "--", "drawstyle": "steps-post"}
        ax.plot(steps, self.values, marker, color="tab:blue", label="meta-loss")
        label = "certified lower bound" + (", best so far" if self.lower_bounds[0] < best else "")
        ax.plot(steps, self.lower_bounds, label=label, **style)
        if best > 0 and self.values.max() > 5 * best:
            plain_log_scale(ax)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set(
            xlabel="iteration of the solver",
            ylabel="meta-loss",
            title=f"gap at the end: at most {self.values[-1] - best:.2g}",
        )
