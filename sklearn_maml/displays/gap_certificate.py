"""The bound of a gap certificate, drawn."""

from typing import Any, Self

import numpy as np

from sklearn_maml._typing import Axes
from sklearn_maml.certificate.gap_certificate import GapCertificate
from sklearn_maml.displays.display import Display, certificate_of
from sklearn_maml.model_selection.pipelines import find_model

__all__ = ["GapCertificateDisplay"]


class GapCertificateDisplay(Display):
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

    def __init__(self, certificate: GapCertificate) -> None:
        self.certificate = certificate
        best = certificate.radius or certificate.curve.distance or 1.0
        # Denser just below the best radius, where one term falls to zero.
        near = best * (1.0 - np.geomspace(1e-5, 0.5, 100))
        self.radii = np.unique([*np.geomspace(1e-2 * best, 1e2 * best, 201), *near, best])
        self.bounds = np.array([certificate.at(radius) for radius in self.radii])

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Axes | None = None) -> Self:
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
        return cls(certificate_of(find_model(estimator))).plot(ax=ax)

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
