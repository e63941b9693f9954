"""Tangent features of a random two-layer network: a wide network as a featurizer."""

from typing import Literal, Self

import numpy as np
from scipy.special import erf, expit
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from sklearn_maml._component import Documented, check_int
from sklearn_maml._typing import Floats, Random, Table

__all__ = ["NTKFeatures"]

# Each activation and its derivative.
ACTIVATIONS = {
    "erf": (erf, lambda t: 2.0 / np.sqrt(np.pi) * np.exp(-np.square(t))),
    "relu": (lambda t: np.maximum(t, 0.0), lambda t: (t > 0).astype(t.dtype)),
    "softplus": (lambda t: np.logaddexp(0.0, t), expit),
    "tanh": (np.tanh, lambda t: 1.0 - np.square(np.tanh(t))),
}


class NTKFeatures(Documented, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """The gradient of a random two-layer network in its weights, at initialisation.

    The network is ``f(x) = m^-1/2 sum_r a_r s(w_r' x~)`` with ``x~ = (x, 1)``, all weights a_r and
    w_r standard normal and m = `n_hidden`. Its tangent features are ``phi(x) = m^-1/2 (s(w_r' x~),
    a_r s'(w_r' x~) x~)`` over all r. A model linear in phi is the network that trains in the
    neural tangent kernel regime: what "On the Global Optimality of Model-Agnostic Meta-Learning"
    calls an overparametrised network. As m grows, ``phi(x)' phi(y)`` converges to the kernel; for
    ReLU, with t the angle between x~ and y~, to

    ``(|x~| |y~| (sin t + (pi - t) cos t) + x~' y~ (pi - t)) / (2 pi)``.

    Inputs should be of order 1, for example standardised.

    Parameters
    ----------
    n_hidden : int, default=100
        Width m. There are ``m (n_features + 2)`` features.
    activation : {"erf", "relu", "softplus", "tanh"}, default="relu"
        s.
    random_state : int, RandomState or None, default=None

    Attributes
    ----------
    hidden_weights_ : ndarray of shape (n_features + 1, n_hidden)
        w_r, the bias last.
    output_weights_ : ndarray of shape (n_hidden,)
        a_r.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only where X has column names.

    References
    ----------
    Jacot, Gabriel & Hongler, "Neural Tangent Kernel: Convergence and Generalization in Neural
    Networks", NeurIPS 2018. Cho & Saul, "Kernel Methods for Deep Learning", NIPS 2009.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml.ntk import NTKFeatures
    >>> NTKFeatures(n_hidden=50, random_state=0).fit_transform(np.ones((4, 3))).shape
    (4, 250)
    """

    def __init__(
        self,
        n_hidden: int = 100,
        *,
        activation: Literal["erf", "relu", "softplus", "tanh"] = "relu",
        random_state: Random | None = None,
    ) -> None:
        self.n_hidden = n_hidden
        self.activation = activation
        self.random_state = random_state

    def fit(self, X: Table, y: None = None) -> Self:
        """Draw the weights.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)
            Only its number of columns is used.
        y : None
            Ignored; for pipelines.

        Returns
        -------
        self : NTKFeatures

        Raises
        ------
        ValueError, TypeError
            If a parameter is not as described.
        """
        check_int("n_hidden", self.n_hidden)
        if self.activation not in ACTIVATIONS:
            known = ", ".join(map(repr, sorted(ACTIVATIONS)))
            raise ValueError(f"activation must be one of {known}; got {self.activation!r}.")
        rows = validate_data(self, X, dtype=np.float64)
        random = check_random_state(self.random_state)
        self.hidden_weights_ = random.standard_normal((rows.shape[1] + 1, self.n_hidden))
        self.output_weights_ = random.standard_normal(self.n_hidden)
        return self

    def transform(self, X: Table) -> Floats:
        """The tangent features.

        Parameters
        ----------
        X : array-like of shape (n_rows, n_features)

        Returns
        -------
        ndarray of shape (n_rows, n_hidden * (n_features + 2))
            The gradient in the output weights, then in each hidden unit's weights.
        """
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        with_bias = np.column_stack([rows, np.ones(len(rows))])
        at = with_bias @ self.hidden_weights_
        activate, derivative = ACTIVATIONS[self.activation]
        slopes = self.output_weights_ * derivative(at)
        inner = slopes[:, :, None] * with_bias[:, None, :]
        features = np.concatenate([activate(at), inner.reshape(len(rows), -1)], axis=1)
        return features / np.sqrt(self.n_hidden)

    @property
    def _n_features_out(self):
        return self.n_hidden * (self.n_features_in_ + 2)
