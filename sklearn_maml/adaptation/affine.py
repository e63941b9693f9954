"""Rules that are affine in theta, in closed form, whatever their number of steps.

Where the loss is a square about the targets y, with curvatures W and residuals ``r = y - F theta``,
gradient steps and the proximal step both are a filter q of the support rows' spectrum. In a metric
``M = L L'`` and with the rows ``X = F L`` (docs: theory, "Inner loops"),

    from the rows:       theta_i = theta + L X' C r,    C = W^1/2 q(W^1/2 X X' W^1/2) W^1/2
    from the features:   theta_i = theta + L q(X' W X) X' W r

and so ``J = I - L X' C F`` or ``J = I - L T`` with ``T = q(X' W X) X' W F``. The smaller of the two
matrices is filtered: what is kept of a task is never larger than its rows.
"""

from abc import ABCMeta, abstractmethod

import numpy as np

from sklearn_maml._cached import cached_property
from sklearn_maml._linalg import matmul, matvec, vecmat
from sklearn_maml.adaptation.inner_loop import InnerLoop, Response, RowResponse

__all__ = ["AffineLoop"]


class AffineLoop(InnerLoop, metaclass=ABCMeta):
    """The inner loop of a rule that is affine in theta; a subclass has the filter.

    Parameters
    ----------
    rule : AdaptationRule
    geometry : Geometry
        Of the support rows.
    query : Risk or None
    """

    def __init__(self, rule, geometry, query):
        super().__init__(rule, geometry.risk, query)
        self.geometry = geometry

    @property
    @abstractmethod
    def spectral(self):
        """q of ``geometry.gram(W)``, shape (n, r, r).

        Or of shape (n,), a number for each task, where it is a multiple of the identity.
        """

    def start(self, theta):
        """Where tasks start from: theta, unless a subclass shifts it."""
        return theta

    def adapt(self, theta):
        """theta_i, and the pullback, which depends on no theta."""
        theta = self.start(theta)
        residuals = self.support.residuals(self.support.predict(theta))
        return theta + self._move(residuals), self._pullback

    def respond(self, theta):
        """From the rows where these are no more than the features."""
        if self.geometry.tall:
            return Response(self.query, *self.adapt(theta))
        theta = self.start(theta)
        residuals = self.support.residuals(self.support.predict(theta))
        if self.query is self.support:
            predictions = self.support.targets - residuals
        else:
            predictions = self.query.predict(theta)
        return RowResponse(
            self.query,
            self.support,
            predictions + matvec(self._response, residuals),
            lambda: theta + self._move(residuals),
            lambda V: self._response if V is None else matmul(V, self._response),
        )

    def _move(self, residuals):
        """``theta_i - theta`` for residuals (..., n, m)."""
        rows = self.geometry.rows
        if self.geometry.tall:
            along = self._filtered(vecmat(self._curvatures * residuals, rows)[..., None])[..., 0]
        else:
            along = vecmat(self._rows_gained(residuals[..., None, :])[..., 0, :], rows)
        return self.geometry.metric.lift(along)

    def _pullback(self, V):
        """``V J`` for rows V (..., k, d)."""
        if self.geometry.tall:
            return V - matmul(self.geometry.metric.rows(V), self._crossed)
        pulled = self._rows_gained(self.geometry.products_with(V))
        return V - matmul(pulled, self.support.features)

    def _filtered(self, columns):
        """q times columns (..., n, r, k)."""
        if self._is_multiple:
            return self.spectral[..., None, None] * columns
        return matmul(self.spectral, columns)

    @property
    def _is_multiple(self):
        """Whether q is a multiple of the identity in each task, and C is diagonal."""
        return self.spectral.ndim < self.support.weights.ndim

    @cached_property
    def _curvatures(self):
        """The diagonal of W, shape (n, m)."""
        return self.support.curvatures(None)

    @cached_property
    def _gain(self):
        """C, shape (n, m, m), or its diagonal where q is a multiple of the identity."""
        if self._is_multiple:
            return self.spectral[..., None] * self._curvatures
        root = np.sqrt(self._curvatures)
        return root[..., :, None] * self.spectral * root[..., None, :]

    def _rows_gained(self, U):
        """``U C`` for rows U (..., n, k, m)."""
        return U * self._gain[..., None, :] if self._is_multiple else matmul(U, self._gain)

    @cached_property
    def _response(self):
        """``R = Phi L X' C`` for the query rows Phi, shape (n, query rows, m)."""
        if self.query is self.support:
            return self._rows_gained(self.geometry.products)
        return self._rows_gained(self.geometry.products_with(self.query.features))

    @cached_property
    def _crossed(self):
        """``T = q(X' W X) X' W F``, shape (n, r, d)."""
        weighted = self._curvatures[..., None] * self.support.features
        return self._filtered(matmul(np.swapaxes(self.geometry.rows, -1, -2), weighted))
