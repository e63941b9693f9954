"""Pictures of a fitted model: its certificate, its few-shot curve, its convergence.

In scikit-learn's form: a class method computes and draws, ``plot(ax=)`` draws again elsewhere, and
``ax_``, ``figure_`` hold what was drawn on. matplotlib is imported when something is drawn.
"""

import numpy as np

from sklearn_maml.model_selection import few_shot_curve
from sklearn_maml.model_selection.baselines import own_ridge, pooled_task_errors
from sklearn_maml.model_selection.convergence import certified_path
from sklearn_maml.model_selection.pipelines import find_model

__all__ = ["ConvergenceDisplay", "FewShotCurveDisplay", "GapCertificateDisplay"]


class _Display:
    """What all displays do; each draws itself on axes in `_draw`."""

    def plot(self, ax=None):
        """Draw on `ax`, or on new axes.

        Parameters
        ----------
        ax : matplotlib Axes, default=None

        Returns
        -------
        self : object
            With `ax_` and `figure_`, what was drawn on.
        """
        import matplotlib.pyplot as plt

        if not (ax is None or hasattr(type(ax), "set_xlabel")):
            raise TypeError(f"ax must be matplotlib Axes or None; got {type(ax).__name__}.")
        self.ax_ = plt.subplots(layout="constrained")[1] if ax is None else ax
        self.figure_ = self.ax_.figure
        self._draw(self.ax_)
        self.ax_.legend(frameon=False)
        return self


def _certificate_of(model):
    """The certificate of a fit; raises where it was fitted without one."""
    if model.gap_certificate_ is None:
        raise ValueError(
            f"The {type(model).__name__} was fitted with certificate=None, so there is none to "
            "draw; fit it with certificate='fast'."
        )
    return model.gap_certificate_


class GapCertificateDisplay(_Display):
    """The bound of a gap certificate as a function of the radius R, with its two terms.

    Parameters
    ----------
    certificate : GapCertificate

    Attributes
    ----------
    radii, bounds : ndarray of shape (n_points,)
        The curve that is drawn.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> from sklearn_maml.displays import GapCertificateDisplay
    >>> tasks = make_linear_tasks(n_tasks=60, random_state=0)
    >>> certificate = MAMLRegressor().fit(tasks[:40]).certify(tasks[40:])
    >>> display = GapCertificateDisplay(certificate).plot()
    >>> bool(display.bounds.min() >= certificate.bound)
    True
    """

    def __init__(self, certificate):
        self.certificate = certificate
        best = certificate.radius or certificate.curve.distance or 1.0
        # Denser just below the best radius, where one term falls to zero.
        near = best * (1.0 - np.geomspace(1e-5, 0.5, 100))
        self.radii = np.unique([*np.geomspace(1e-2 * best, 1e2 * best, 201), *near, best])
        self.bounds = np.array([certificate.at(radius) for radius in self.radii])

    @classmethod
    def from_estimator(cls, estimator, *, ax=None):
        """Draw the certificate of a fit.

        Parameters
        ----------
        estimator : MAMLRegressor, MAMLClassifier, Pipeline that ends in one, or search over these
            Fitted.
        ax : matplotlib Axes, default=None

        Returns
        -------
        GapCertificateDisplay

        Raises
        ------
        ValueError
            If the estimator was fitted with ``certificate=None``.
        """
        return cls(_certificate_of(find_model(estimator))).plot(ax=ax)

    def _draw(self, ax):
        c = self.certificate
        first = self.radii * c.epsilon
        second = np.array([c.weight_norm * c.curve(radius) for radius in self.radii])
        rest = c.slack + c.rounding
        bottom = max(0.1 * rest, 1e-4 * c.bound)
        below = " (below this picture)"
        ax.plot(self.radii, self.bounds, color="black", linewidth=2, label="bound on the gap")
        label = "R × gradient norm ε" + (below if first.max() < bottom else "")
        ax.plot(self.radii, first, "--", color="tab:blue", label=label)
        ax.plot(
            self.radii,
            np.where(second > 0, second, np.nan),
            "-.",
            color="tab:orange",
            label="‖w‖ × representation error",
        )
        if rest > 0:
            label = "slack and rounding" + (below if rest < bottom else "")
            ax.axhline(rest, color="tab:gray", linestyle=":", label=label)
        if c.bound < 0.99 * self.bounds.min():  # by another route, which knows no radius
            label = f"reported, by {c.route}: {c.bound:.2g}"
            ax.axhline(c.bound, color="tab:red", label=label)
        elif c.radius > 0:
            label = f"best R = {c.radius:.2g}: gap at most {c.bound:.2g}"
            ax.plot(c.radius, c.bound, "o", color="tab:red", markersize=8, label=label, zorder=3)
        if self.bounds.max() > 0:
            ax.set(xscale="log", yscale="log")
            ax.set_ylim(bottom=bottom, top=20 * self.bounds.max())
        share = c.bound / c.meta_loss if c.meta_loss > 0 else 0.0
        ax.set(
            xlabel="radius R around the meta-parameters",
            ylabel="meta-loss above its minimum, at most",
            title=f"{c.route}: gap at most {share:.2g} times the meta-loss",
        )


class FewShotCurveDisplay(_Display):
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

    def __init__(self, curve, prior, own=None, pooled=None):
        self.curve, self.prior, self.own, self.pooled = curve, prior, own, pooled

    @classmethod
    def from_estimator(
        cls,
        estimator,
        tasks,
        y=None,
        *,
        groups=None,
        supports=(0, 1, 3, 5, 10),
        pooled=None,
        n_draws=10,
        metric=None,
        random_state=0,
        ax=None,
    ):
        """Compute and draw the curve of a model, and of the alternatives.

        Parameters
        ----------
        estimator : MAMLRegressor, MAMLClassifier, Pipeline that ends in one, or search over these
            Fitted, on other tasks.
        tasks, y, groups, supports, n_draws, metric, random_state
            As in `sklearn_maml.model_selection.few_shot_curve`.
        pooled : regressor, default=None
            One regression for all tasks, fitted on the training rows; drawn as a level line. It
            is given the rows of `tasks` as they are.
        ax : matplotlib Axes, default=None

        Returns
        -------
        FewShotCurveDisplay
        """
        shared = {"groups": groups, "n_draws": n_draws, "metric": metric}
        shared["random_state"] = random_state
        curve = few_shot_curve(estimator, tasks, y, supports=supports, **shared)
        (prior,) = few_shot_curve(estimator, tasks, y, supports=[0], **shared).mean
        shots = [k for k in supports if k > 0]
        alone = {**shared, "supports": shots, "adaptation": own_ridge(estimator)}
        own = few_shot_curve(estimator, tasks, y, **alone) if shots else None
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
            _plain_log_scale(ax)
        else:
            ax.set_ylim(bottom=0)
        n_tasks = self.curve.task_errors.shape[1]
        ax.set(
            xticks=self.curve.supports,
            xlabel="rows of the new task adapted to",
            ylabel=f"{self.curve.metric.replace('_', ' ')} on its other rows",
            title=f"{n_tasks} tasks, mean ± standard error",
        )


class ConvergenceDisplay(_Display):
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

    def __init__(self, values, lower_bounds):
        self.values = np.asarray(values, dtype=float)
        self.lower_bounds = np.fmax.accumulate(np.broadcast_to(lower_bounds, self.values.shape))

    @classmethod
    def from_estimator(
        cls, estimator, tasks=None, y=None, *, groups=None, sample_weight=None, ax=None
    ):
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
            values, bounds = model.meta_losses_, _certificate_of(model).lower_bound
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
            _plain_log_scale(ax)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set(
            xlabel="iteration of the solver",
            ylabel="meta-loss",
            title=f"gap at the end: at most {self.values[-1] - best:.2g}",
        )


def _error_bars(ax, curve, label, **style):
    ax.errorbar(curve.supports, curve.mean, curve.standard_error, capsize=3, label=label, **style)


def _plain_log_scale(ax):
    """A logarithmic y axis with plain numbers, also between the powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
