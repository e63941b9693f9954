"""A rule bound to the rows of a stack of tasks, and how query predictions respond to theta.

Whatever a rule is, the chain rule needs of it, for the query rows Phi of each task,

    z = Phi theta_i        and        V dz/dtheta = V Phi J_i        for rows V.

`Response` computes them from theta_i and the pullback, so that a rule has to give nothing else.
`RowResponse` computes the same without a d x d matrix where theta moves within the span of the
support rows F: ``dz = (Phi - R F) dtheta``, with R of shape (query rows, support rows).
"""

import numpy as np

from sklearn_maml._cached import cached_property
from sklearn_maml._linalg import flat_vecmat, matmul, matvec, vecmat

__all__ = ["InnerLoop", "Response", "RowResponse"]


class InnerLoop:
    """A rule bound to the support rows, and to the query rows, of a stack of n tasks.

    What adapting needs to know of these rows whatever theta is, such as the lengths of steps, a
    subclass computes once. Nothing changes it afterwards; a meta-objective keeps it as long as it
    keeps the rows.

    Parameters
    ----------
    rule : AdaptationRule
    support : Risk
    query : Risk, default=None
        None where no query row is asked for.
    """

    def __init__(self, rule, support, query=None):
        self.rule, self.support, self.query = rule, support, query

    def adapt(self, theta):
        """theta_i and the pullback; see `AdaptationRule.adapt`."""
        return self.rule.adapt(theta, self.support)

    def recall(self, facts):
        """Look up, or note, in a dictionary what is a number a task and takes long to find.

        It outlives this loop, where rows are too many to be kept between passes over them.
        """

    def respond(self, theta):
        """The `Response` of the query predictions at theta (..., 1, d)."""
        return Response(self.query, *self.adapt(theta))

    def amplified(self, theta_i):
        """What adapting adds to the rounding of query predictions, in terms of size 1.

        A prediction rounds by an epsilon for each unit of the terms that it adds up. Where a rule
        solves equations, a rounding in these is enlarged by as much as they are ill-conditioned.

        Parameters
        ----------
        theta_i : ndarray of shape (..., n, d)

        Returns
        -------
        float or ndarray of shape (..., n, m)
        """
        return 0.0

    @property
    def relative_step(self):
        """Step length times the support Hessian's largest eigenvalue, shape (n,).

        Above 1 a step overshoots in some direction, above 2 repeated steps diverge; 0 for a rule
        that takes no steps.
        """
        return np.zeros(self.support.weights.shape[:-1])


class Response:
    """Query predictions and their derivatives, from adapted parameters and a pullback.

    Parameters
    ----------
    query : Risk
        Of n tasks with m rows each.
    theta_i : ndarray of shape (..., n, d)
    pullback : callable
    """

    def __init__(self, query, theta_i, pullback):
        self.query, self.theta_i, self.pullback = query, theta_i, pullback

    @cached_property
    def predictions(self):
        """z, shape (..., n, m)."""
        return self.query.predict(self.theta_i)

    def design(self, scale=None):
        """``dz/dtheta``, shape (..., n, m, d), its rows times `scale` (..., n, m) if given."""
        return _scaled(self.pullback(self.query.features), scale)

    def along(self, v):
        """``dz/dtheta v`` for v (..., 1, d), shape (..., n, m)."""
        return matvec(self.design(), v)

    def task_gradients(self, slopes):
        """``sum_j slopes_j dz_j/dtheta`` of each task, for slopes (..., n, m): (..., n, d)."""
        return self.pullback(vecmat(slopes, self.query.features)[..., None, :])[..., 0, :]

    def gradient(self, slopes):
        """`task_gradients` summed over tasks, shape (..., d)."""
        return self.task_gradients(slopes).sum(axis=-2)


class RowResponse:
    """Query predictions and their derivatives, seen from the support rows.

    Parameters
    ----------
    query, support : Risk
        Of n tasks with m and s rows each; one and the same where every row is both.
    predictions : ndarray of shape (..., n, m)
    adapted : callable
        Returns theta_i, which is not always asked for.
    response : callable
        Maps rows V (..., n, k, m) to ``V R`` (..., n, k, s); None to R itself.
    """

    def __init__(self, query, support, predictions, adapted, response):
        self.query, self.support, self.predictions = query, support, predictions
        self._adapt, self._response = adapted, response

    @cached_property
    def theta_i(self):
        """Adapted parameters, shape (..., n, d)."""
        return self._adapt()

    def design(self, scale=None):
        """``Phi - R F``; see `Response.design`."""
        response = self._response(None)
        if self.query is self.support:  # (I - R) F: one product instead of two
            matrix = _scaled(np.eye(response.shape[-1]) - response, scale)
            return matmul(matrix, self.query.features)
        design = matmul(response, self.support.features)
        np.subtract(self.query.features, design, out=design)
        return _scaled(design, scale, owned=True)

    def along(self, v):
        """``Phi v - R F v``; see `Response.along`."""
        moved = matvec(self._response(None), self.support.predict(v))
        return self.query.predict(v) - moved

    def task_gradients(self, slopes):
        """``slopes (Phi - R F)``; see `Response.task_gradients`."""
        return self._pull(slopes, vecmat)

    def gradient(self, slopes):
        """`task_gradients` summed over tasks: two products with all rows at once."""
        return self._pull(slopes, flat_vecmat)

    def _pull(self, slopes, product):
        pulled = self._response(slopes[..., None, :])[..., 0, :]
        if self.query is self.support:
            return product(slopes - pulled, self.query.features)
        return product(slopes, self.query.features) - product(pulled, self.support.features)


def _scaled(rows, scale, owned=False):
    """Rows (..., n, m, d) times numbers (..., n, m); in their own memory if nobody else has it."""
    if scale is None:
        return rows
    if not owned or scale.ndim >= rows.ndim:  # a scale for each target makes more rows
        return rows * scale[..., None]
    rows *= scale[..., None]
    return rows
