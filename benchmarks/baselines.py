"""The methods that a few-shot learner has to beat, on the data sets of `public_suite`.

    python benchmarks/baselines.py                 # one table for each protocol
    python benchmarks/baselines.py --split first

Errors are relative to those of a random-slope mixed model. Needs the ``test`` extra; about five
minutes the first time, most of it mixed models, and a second when all cells are in the cache.
"""

import argparse
import warnings
from dataclasses import dataclass

import numpy as np
from public_suite import (
    PROTOCOLS,
    SHOTS,
    compare,
    fold_of_groups,
    pad,
    print_table,
    row_orders,
    split_rows,
)


@dataclass(frozen=True, eq=False)
class Standardizer:
    """Centre and scale of features, every group counting the same; a constant column becomes 0."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, X, groups):
        """From rows X (n_rows, d) and their groups (n_rows,)."""
        _, rows, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        weights = 1 / (sizes[rows] * sizes.size)
        mean = weights @ X
        variance = weights @ (X - mean) ** 2
        constant = variance <= 1e-20 * (1 + mean**2)
        return cls(mean, np.where(constant, np.inf, np.sqrt(variance)))

    def design(self, X):
        """A column of ones and the standardised features, of shape (..., d + 1)."""
        return np.concatenate([np.ones((*X.shape[:-1], 1)), (X - self.mean) / self.scale], axis=-1)


def ridge(Z, y, strength, prior=0.0):
    """Minimise ||y - Z t||^2 + sum_j strength_j (t_j - prior_j)^2 over t, for every task.

    Parameters
    ----------
    Z : ndarray of shape (..., m, d)
    y : ndarray of shape (..., m)
    strength : ndarray of shape (d,)
        Non-negative; a zero leaves a coordinate free.
    prior : ndarray of shape (d,) or float, default=0

    Returns
    -------
    t : ndarray of shape (..., d)
    """
    prior = np.broadcast_to(prior, Z.shape[-1:])
    gram = np.swapaxes(Z, -1, -2) @ Z + np.diag(strength)
    residual = y - Z @ prior
    step = np.linalg.solve(gram, np.swapaxes(Z, -1, -2) @ residual[..., None])[..., 0]
    return prior + step


def choose(candidates, predict, X, y, groups, split, seed=0, n_folds=5, n_draws=2):
    """The candidate of smallest query error on held-out training groups, for each number of shots.

    ``predict(rows, X_s, y_s, X_q, candidate)`` may look at the training rows ``rows`` (a mask)
    only.

    Returns
    -------
    best : dict of int to candidate
    """
    fold = fold_of_groups(groups, n_folds, seed)
    error = {k: np.zeros(len(candidates)) for k in SHOTS}
    for held in range(n_folds):
        test = fold == held
        padded = pad(X[test], y[test], groups[test])
        for order in row_orders(padded, split, n_draws, [seed, held]):
            for k in SHOTS:
                X_s, y_s, X_q, y_q, valid = split_rows(padded, order, k)
                for c, candidate in enumerate(candidates if len(X_s) else ()):
                    z = predict(~test, X_s, y_s, X_q, candidate)
                    error[k][c] += (np.where(valid, z - y_q, 0.0) ** 2).sum()
    return {k: candidates[int(np.argmin(e))] for k, e in error.items() if e.any()}


def nearest_shots(best, k):
    """The entry of `best` whose number of shots is nearest to k on a log scale."""
    return best[min(best, key=lambda shots: abs(np.log(shots / k)))]


_STRENGTHS = tuple(10.0 ** np.arange(-3, 5.1, 0.5))


@dataclass(frozen=True)
class _Fitted:
    """A fitted model: `adapt_predict`, and what it has to say."""

    adapt_predict: object
    note: str = ""


def _pooled_coef(standardizer, X, y, strength):
    """Ridge on all rows, the intercept free."""
    Z = standardizer.design(X)
    return ridge(Z, y, np.r_[0.0, np.full(Z.shape[1] - 1, strength)])


@dataclass(frozen=True)
class PooledRidge:
    """One ridge on all training rows, its strength by cross-validation on groups; no adaptation."""

    split: str = "random"

    def fit(self, X, y, groups):
        """Fit on rows (n_rows, d), targets and groups (n_rows,)."""

        def predict(rows, X_s, y_s, X_q, strength):
            standardizer = Standardizer.fit(X[rows], groups[rows])
            return standardizer.design(X_q) @ _pooled_coef(standardizer, X[rows], y[rows], strength)

        best = choose(_STRENGTHS, predict, X, y, groups, self.split, n_draws=1)
        standardizer = Standardizer.fit(X, groups)
        coef = _pooled_coef(standardizer, X, y, nearest_shots(best, 1))
        return _Fitted(lambda X_s, y_s, X_q: standardizer.design(X_q) @ coef)


@dataclass(frozen=True)
class PerTaskRidge:
    """Ridge on the support rows alone, the intercept free, one strength for each number of shots.

    Training groups give the scale of the features and choose the strength; the slopes' prior is 0.
    """

    split: str = "random"

    def fit(self, X, y, groups):
        """Fit on rows (n_rows, d), targets and groups (n_rows,)."""
        standardizer = Standardizer.fit(X, groups)

        def predict(rows, X_s, y_s, X_q, strength):
            Z = standardizer.design(X_s)
            # a free intercept is the ridge on centred rows
            coef = ridge(
                Z - Z.mean(axis=1, keepdims=True),
                y_s - y_s.mean(axis=1, keepdims=True),
                np.r_[1.0, np.full(X.shape[1], strength)],
            )
            shift = standardizer.design(X_q) - Z.mean(axis=1, keepdims=True)
            return y_s.mean(axis=1, keepdims=True) + (shift @ coef[..., None])[..., 0]

        best = choose(_STRENGTHS, predict, X, y, groups, self.split)
        return _Fitted(
            lambda X_s, y_s, X_q: predict(None, X_s, y_s, X_q, nearest_shots(best, X_s.shape[1]))
        )


@dataclass(frozen=True)
class BiasedRidge:
    """Ridge on the support rows shrunk to the pooled coefficients.

    One strength for each number of shots, by cross-validation on training groups.
    """

    split: str = "random"

    def fit(self, X, y, groups):
        """Fit on rows (n_rows, d), targets and groups (n_rows,)."""
        prior = {}

        def predict(rows, X_s, y_s, X_q, strength):
            key = rows.tobytes()
            if key not in prior:
                standardizer = Standardizer.fit(X[rows], groups[rows])
                prior[key] = standardizer, _pooled_coef(standardizer, X[rows], y[rows], 1e-6)
            standardizer, coef = prior[key]
            coef = ridge(standardizer.design(X_s), y_s, np.full(coef.size, strength), coef)
            return (standardizer.design(X_q) @ coef[..., None])[..., 0]

        best = choose(_STRENGTHS, predict, X, y, groups, self.split)
        every = np.ones(len(y), dtype=bool)
        return _Fitted(
            lambda X_s, y_s, X_q: predict(every, X_s, y_s, X_q, nearest_shots(best, X_s.shape[1]))
        )


def varies_within_groups(X, groups):
    """Which columns of X (n_rows, d) differ between rows of one group; bool of shape (d,)."""
    _, rows, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    means = np.stack([np.bincount(rows, column) / sizes for column in X.T], axis=1)
    within = ((X - means[rows]) ** 2).sum(axis=0)
    return within > 1e-10 * ((X - X.mean(axis=0)) ** 2).sum(axis=0)


@dataclass(frozen=True)
class MixedModel:
    """A linear mixed model by REML (statsmodels), and the BLUP of each held-out group.

    Random intercept and slopes of every feature that varies within groups, full covariance, all
    features fixed effects. Of the optimisers the one that finds the largest restricted likelihood
    counts: on four fifths of EmplUK L-BFGS says that it converged 337 below the maximum, and errors
    are up to 1.36 times those of lme4. Where none converges, a random intercept alone; ``note``
    then says so.
    """

    optimizers: tuple = ("lbfgs", "powell")

    def fit(self, X, y, groups):
        """Fit on rows (n_rows, d), targets and groups (n_rows,)."""
        standardizer = Standardizer.fit(X, groups)
        centre, scale = y.mean(), y.std()
        Z, target = standardizer.design(X), (y - centre) / scale
        fixed = np.r_[True, np.isfinite(standardizer.scale)]
        random = np.r_[True, varies_within_groups(X, groups)]
        result = _reml(target, Z[:, fixed], Z[:, random], groups, self.optimizers)
        note = ""
        if result is None:
            note = "random slopes did not converge, random intercept only"
            random = np.arange(Z.shape[1]) == 0
            result = _reml(target, Z[:, fixed], Z[:, random], groups, self.optimizers)
        if result is None:
            raise RuntimeError("MixedLM converged neither with random slopes nor without.")
        beta = np.zeros(Z.shape[1])
        beta[fixed] = result.fe_params
        cov = np.zeros((Z.shape[1], Z.shape[1]))
        cov[np.ix_(random, random)] = result.cov_re

        def adapt_predict(X_s, y_s, X_q):
            coef = blup(standardizer.design(X_s), (y_s - centre) / scale, beta, cov, result.scale)
            return centre + scale * (standardizer.design(X_q) @ coef[..., None])[..., 0]

        return _Fitted(adapt_predict, note)


def _reml(y, X, Z, groups, optimizers):
    """The result of statsmodels' MixedLM with the largest likelihood; None where none converged."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    best = None
    for optimizer in optimizers:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                result = MixedLM(y, X, groups, exog_re=Z).fit(
                    reml=True, method=optimizer, maxiter=500, skip_hessian=True
                )
            except np.linalg.LinAlgError:
                continue
        if result.converged and np.all(np.isfinite(result.cov_re)):
            best = result if best is None or result.llf > best.llf else best
    return best


def blup(Z, y, beta, cov, noise):
    """Fixed effects plus predicted random effects.

    beta + cov Z' (Z cov Z' + noise I)^-1 (y - Z beta), in row space: cov may be singular.

    Parameters
    ----------
    Z : ndarray of shape (..., m, d)
    y : ndarray of shape (..., m)
    beta : ndarray of shape (d,)
    cov : ndarray of shape (d, d)
        Covariance of the random effects.
    noise : float
        Residual variance.

    Returns
    -------
    coef : ndarray of shape (..., d)
    """
    Z_cov = Z @ cov
    marginal = Z_cov @ np.swapaxes(Z, -1, -2) + noise * np.eye(Z.shape[-2])
    residual = np.linalg.solve(marginal, (y - Z @ beta)[..., None])
    return beta + (np.swapaxes(Z_cov, -1, -2) @ residual)[..., 0]


@dataclass(frozen=True)
class BoostingWithOffset:
    """Gradient-boosted trees on all rows plus, for a group, its shrunken mean support residual.

    The offset is sum(residuals) / (k + kappa); kappa is the ratio of the variance within groups to
    that between them, from residuals of predictions for groups that were not fitted (one-way
    ANOVA).
    """

    seed: int = 0

    def fit(self, X, y, groups):
        """Fit on rows (n_rows, d), targets and groups (n_rows,)."""
        from sklearn.ensemble import HistGradientBoostingRegressor
        from sklearn.model_selection import GroupKFold, cross_val_predict

        trees = HistGradientBoostingRegressor(random_state=self.seed)
        folds = GroupKFold(min(5, len(np.unique(groups))))
        held_out = cross_val_predict(trees, X, y, groups=groups, cv=folds)
        kappa = variance_ratio(y - held_out, groups)
        trees.fit(X, y)

        def predict(X):
            return trees.predict(X.reshape(-1, X.shape[-1])).reshape(X.shape[:-1])

        def adapt_predict(X_s, y_s, X_q):
            offset = (y_s - predict(X_s)).sum(axis=1, keepdims=True) / (y_s.shape[1] + kappa)
            return predict(X_q) + offset

        return _Fitted(adapt_predict)


def variance_ratio(residual, groups):
    """Variance within groups over variance between groups (one-way ANOVA), at least 1e-6."""
    _, rows, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    means = np.bincount(rows, residual) / sizes
    n_groups, n_rows = sizes.size, residual.size
    within = ((residual - means[rows]) ** 2).sum() / max(n_rows - n_groups, 1)
    spread = (sizes * (means - residual.mean()) ** 2).sum() / (n_groups - 1)
    typical = (n_rows - (sizes**2).sum() / n_rows) / (n_groups - 1)
    between = max((spread - within) / typical, 1e-6 * within)
    return max(within / between, 1e-6)


def baselines(split):
    """The baselines for one protocol, by name; the mixed model is the reference of the ratios."""
    return {
        "mixed model": MixedModel(),
        "pooled ridge": PooledRidge(split),
        "per-task ridge": PerTaskRidge(split),
        "biased ridge": BiasedRidge(split),
        "boosting + offset": BoostingWithOffset(),
    }


def main():
    """Print the table of each protocol."""
    parser = argparse.ArgumentParser(description="Baselines on nine public sets of grouped data.")
    parser.add_argument("--split", choices=PROTOCOLS, nargs="*", default=PROTOCOLS)
    for split in parser.parse_args().split:
        print(f"\nMSE relative to the mixed model, {split} support rows")
        print_table(*compare(baselines(split), MixedModel(), split))


if __name__ == "__main__":
    main()
