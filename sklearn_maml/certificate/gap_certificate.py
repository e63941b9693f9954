"""The gap certificate: what it holds, and how it is shown."""

from dataclasses import dataclass, replace
from html import escape
from numbers import Real
from typing import Self

import numpy as np

from sklearn_maml._report import LEFT, html_rows

__all__ = ["Curve", "GapCertificate"]

# A gap of this share of the meta-loss counts as none.
EXACT = 1e-12

# With more rounding than this share nothing is exact.
PRECISE = 1e-6

TITLE = "Gap certificate (Wang, Cai, Yang & Wang, ICML 2020)"


@dataclass(frozen=True)
class Curve:
    """``min ||psi (v* - v)||`` over ``||v|| <= R`` as a function of R.

    Attributes
    ----------
    distance : float
        ||v*||, from where on the minimum is `rest`.
    start : float
        The minimum at R = 0, ``||psi v*||``.
    eigenvalues, squares : tuple of float
        Spectrum of psi' psi, and the squared coordinates of v* in it. Empty where they were not
        needed, or lost to rounding: then v is sought on the segment from 0 to v*, which is valid
        and no sharper.
    rest : float
        What no v represents: the minimum is ``min ||psi (v* - v)||``, squares added to its square.
    """

    distance: float
    start: float
    eigenvalues: tuple = ()
    squares: tuple = ()
    rest: float = 0.0

    def with_spectrum(self, eigenvalues, squares):
        """The curve with a spectrum, if the spectrum still knows v* and psi v*."""
        whole = np.array([self.distance**2, self.start**2])
        known = np.array([squares.sum(), (eigenvalues * squares).sum()])
        if not (np.abs(known - whole) <= 1e-8 * whole).all():
            return self
        return replace(
            self, eigenvalues=tuple(eigenvalues.tolist()), squares=tuple(squares.tolist())
        )

    def __call__(self, radius):
        """The representation error at a radius."""
        if radius >= self.distance:
            return self.rest
        inside = np.sqrt(max(self.start**2 - self.rest**2, 0.0))
        segment = float(np.hypot(self.rest, inside * (1.0 - radius / self.distance)))
        if not self.eigenvalues or radius == 0:
            return segment
        # ||v(lam)|| falls from ||v*|| to 0 as lam grows from 0: bisect on log(lam).
        top = max(self.eigenvalues)
        low, high = np.log(top * 1e-18), np.log(top * 1e18)
        for _ in range(80):
            middle = 0.5 * (low + high)
            (length,), _ = self._at(np.exp([middle]))
            low, high = (low, middle) if length < radius else (middle, high)
        return min(segment, self._at(np.exp([high]))[1][0])

    def _at(self, lams):
        """Length of ``v(lam) = (psi'psi + lam)^-1 psi'psi v*``, and ``||psi (v* - v)||``."""
        s, squares, lams = np.array(self.eigenvalues), np.array(self.squares), lams[:, None]
        length = np.sqrt((squares * (s / (s + lams)) ** 2).sum(axis=1))
        error = (squares * s * (lams / (s + lams)) ** 2).sum(axis=1)
        # What rounding left out of the spectrum counts as if nothing represented it.
        lost = abs(self.start**2 - self.rest**2 - (squares * s).sum())
        return length, np.sqrt(error + lost + self.rest**2)

    def best(self, epsilon, weight_norm):
        """The radius that minimises ``R epsilon + weight_norm * curve(R)``; also its error."""
        radii, errors = [self.distance, 0.0], [self.rest, self.start]
        top = max(self.eigenvalues, default=0.0)
        if top > 0:
            more = self._at(np.geomspace(1e-18 * top, 1e6 * top, 400))
            radii, errors = np.append(radii, more[0]), np.append(errors, more[1])
        best = np.argmin(epsilon * np.asarray(radii) + weight_norm * np.asarray(errors))
        return radii[best], errors[best]


@dataclass(frozen=True)
class GapCertificate:
    """An upper bound on ``L(omega) - min L`` for the meta-parameters omega that were certified.

    Attributes
    ----------
    bound : float
        The meta-loss at omega exceeds its global minimum by at most this much; in units of the
        loss. ``float(certificate)`` is the bound.
    epsilon : float
        ``||grad L(omega)||``: omega is epsilon-stationary.
    radius : float
        R, the radius at which the bound is smallest.
    weight_norm : float
        ``||w||``, root mean square of the loss derivative over the query rows; for shared inputs
        the smaller factor of Corollary 1.
    representation_error : float
        ``min ||u - psi v||`` over ``||v|| <= radius``: what the adapted features cannot represent.
    meta_loss : float
        L(omega).
    slack : float
        Suboptimality of the comparator itself, from its own gradient or, for losses that are not
        quadratic, from duality; part of the bound.
    rounding : float
        How precisely L(omega) can be evaluated in float64; part of the bound.
    unresolved : float
        What directions below the numerical rank could lower the loss by, were they not zero. Not
        part of the bound, which assumes that they are.
    comparator : str
        What stands in for the global optimum.
    assumptions : tuple of (str, str)
        What the bound rests on, and whether it was checked, holds by construction or is assumed.
    curve : callable
        The representation error as a function of R.
    route : str
        What `bound` rests on: "Theorem 1"; "Corollary 1" where all tasks share their inputs; for
        losses that are not quadratic the best of `routes`.
    corollary : GapCertificate or None
        The certificate by Corollary 1, where it applies; then `bound` is the smaller of the two.
    routes : tuple of (str, float)
        For losses that are not quadratic: each route that applies and its bound; `bound` is the
        smallest. Empty otherwise.
    notes : tuple of str
        What kept other routes from being tried, or from being tight, and what would help.
    effort : str
        The `certificate` parameter that it was made with.

    Examples
    --------
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.datasets import make_linear_tasks
    >>> model = MAMLRegressor().fit(make_linear_tasks(n_tasks=30, random_state=0))
    >>> certificate = model.gap_certificate_
    >>> float(certificate) == certificate.bound
    True
    >>> certificate.lower_bound <= model.meta_loss_
    True
    """

    bound: float
    epsilon: float
    radius: float
    weight_norm: float
    representation_error: float
    meta_loss: float
    slack: float
    rounding: float
    comparator: str
    assumptions: tuple[tuple[str, str], ...]
    curve: Curve
    route: str = "Theorem 1"
    corollary: "GapCertificate | None" = None
    routes: tuple[tuple[str, float], ...] = ()
    unresolved: float = 0.0
    notes: tuple[str, ...] = ()
    effort: str = "fast"

    @property
    def exact(self) -> bool:
        """Whether omega is proved to be a global minimiser, to rounding.

        True where nothing but `rounding` and 1e-12 of the meta-loss is left of the bound, and
        rounding is less than a millionth of it.
        """
        size = abs(self.meta_loss)
        return bool(
            self.bound <= 2.0 * self.rounding + EXACT * size and self.rounding < PRECISE * size
        )

    @property
    def lower_bound(self) -> float:
        """``meta_loss - bound``: no meta-parameters have a smaller meta-loss."""
        return self.meta_loss - self.bound

    def at(self, radius: float) -> float:
        """The bound of Theorem 1 (or Corollary 1) at a given R.

        Parameters
        ----------
        radius : float
            R >= 0, in the units of the meta-parameters.

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If the radius is negative or not a number.
        """
        if not isinstance(radius, Real) or not radius >= 0:
            raise ValueError(f"radius must be a number >= 0; got {radius!r}.")
        error = self.curve(radius)
        return radius * self.epsilon + self.weight_norm * error + self.slack + self.rounding

    def assuming(self, what: str, status: str) -> Self:
        """The same with one more assumption: what, and whether it was checked."""
        return replace(self, assumptions=(*self.assumptions, (what, status)))

    def __float__(self) -> float:
        return self.bound

    def _rows(self):
        """What there is to tell: pairs of a name and a text, a step in where they are terms."""
        share = self.bound / self.meta_loss if self.meta_loss > 0 else 0.0
        return [
            ("meta-loss of the fit", f"{self.meta_loss:.6g}"),
            ("global minimum, at least", f"{self.lower_bound:.6g}"),
            ("gap, at most", f"{self.bound:.3g}  ({share:.2g} of the meta-loss)"),
            *((f"  by {name}", f"{bound:.3g}") for name, bound in self.routes),
            (f"terms of {'Theorem 1' if self.routes else self.route}", ""),
            ("  R * epsilon", f"{self.radius:.3g} * {self.epsilon:.3g}"),
            (
                "  weight norm * repr. error",
                f"{self.weight_norm:.3g} * {self.representation_error:.3g}",
            ),
            ("  comparator's slack", f"{self.slack:.3g}"),
            ("  rounding", f"{self.rounding:.3g}"),
        ]

    def __str__(self):
        lines = [TITLE, *(f"  {name:<34}{text}".rstrip() for name, text in self._rows())]
        lines += [f"  comparator: {self.comparator}", "  assumptions:"]
        lines += [f"    - {what}: {status}" for what, status in self.assumptions]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])

    def _repr_html_(self):
        """The certificate as a table, for notebooks."""
        rows = [*self._rows(), ("comparator", self.comparator)]
        rows += [(f"assumption: {what}", status) for what, status in self.assumptions]
        rows += [("note", note) for note in self.notes]
        caption = f"<caption {LEFT}>{escape(TITLE)}</caption>"
        return f"<table>{caption}<tbody>{html_rows(rows, LEFT)}</tbody></table>"
