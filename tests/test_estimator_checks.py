"""scikit-learn's own estimator checks, over several configurations."""

from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from sklearn_maml import GradientSteps, MAMLRegressor, Proximal

SPLITS_AT_RANDOM = dict.fromkeys(
    (
        "check_sample_weight_equivalence_on_dense_data",
        "check_sample_weight_equivalence_on_sparse_data",
    ),
    "support rows are drawn by position: repeating a row changes which ones are drawn",
)


def expected_failures(estimator):
    """Only the two sample-weight checks, and only where a task is split on demand."""
    return {} if isinstance(estimator.support, str) else SPLITS_AT_RANDOM


@parametrize_with_checks(
    [
        MAMLRegressor("auto"),
        MAMLRegressor(inner_lr=0.05, n_steps=5, alpha=0.1),
        MAMLRegressor("auto", fit_intercept=False, n_jobs=2),
        MAMLRegressor("auto", featurizer=StandardScaler(with_mean=False)),
        MAMLRegressor("auto", featurizer=PolynomialFeatures(include_bias=False), alpha=1e-3),
        MAMLRegressor(adaptation=GradientSteps(0.01, n_steps=2)),
        MAMLRegressor("auto", loss="pseudo_huber"),
        MAMLRegressor(loss="log_cosh", n_steps=2, alpha=0.01),
        MAMLRegressor(adaptation="learned", random_state=0),
        MAMLRegressor(adaptation="learned", support="all"),
        MAMLRegressor(adaptation=Proximal(0.5, metric="identity")),
        MAMLRegressor(adaptation=GradientSteps("learn"), random_state=0),
        MAMLRegressor(adaptation="learned", loss="log_cosh", random_state=0),
        MAMLRegressor("auto", support=2, random_state=0),
        MAMLRegressor("auto", support=0.5, split="first"),
    ],
    expected_failed_checks=expected_failures,
)
def test_scikit_learn_estimator_check(estimator, check):
    check(estimator)
