"""How near a learned covariance is to a local maximum of the restricted likelihood."""

from dataclasses import replace

import numpy as np
import pytest
from moments import moments_of
from numpy.testing import assert_allclose

from sklearn_maml import MAMLClassifier, MAMLRegressor, Proximal
from sklearn_maml._learning.decrement import newton_decrement, second_derivative
from sklearn_maml._learning.likelihood import likelihood
from sklearn_maml._learning.reml import fit_reml
from sklearn_maml._learning.structure import Structure
from sklearn_maml.adaptation import GradientSteps
from sklearn_maml.datasets import make_linear_tasks

STRUCTURES = {
    "full": Structure.full(2),
    "diagonal": Structure.diagonal([0, 1]),
    "tied": Structure.diagonal([0, 0]),
}


def rows(n_targets=1, seed=0):
    """X, Z, y and groups of eight groups that differ in two effects."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(48, 3))
    groups = np.repeat(np.arange(8), 6)
    effects = rng.normal(size=(8, 2, n_targets))[groups]
    y = X @ rng.normal(size=(3, n_targets)) + np.einsum("nk,nkt->nt", X[:, :2], effects)
    return X, X[:, :2], y + 0.5 * rng.normal(size=y.shape), groups


def dense_log_likelihood(X, Z, y, groups, relative):
    """The log restricted likelihood from the covariance of all rows, up to a constant."""
    V = np.eye(len(y)) + (Z @ relative @ Z.T) * (groups[:, None] == groups)
    inverse = np.linalg.inv(V)
    information = X.T @ inverse @ X
    total = 0.0
    for target in y.T:
        rest = target - X @ np.linalg.solve(information, X.T @ inverse @ target)
        dof = len(y) - X.shape[1]
        total -= np.linalg.slogdet(V)[1] + np.linalg.slogdet(information)[1]
        total -= dof * np.log(rest @ inverse @ rest)
    return 0.5 * total


def directions(kind):
    """A basis of the changes D of the root of Sigma that a structure allows.

    The shorter axis is moved along the longer one, not the other way round.
    """
    one, two, along = np.diag([1.0, 0.0]), np.diag([0.0, 1.0]), np.array([[0.0, 1.0], [0.0, 0.0]])
    return {"full": [one, two, along], "diagonal": [one, two], "tied": [np.eye(2)]}[kind]


def decrement_by_differences(data, relative, kind, step=1e-3):
    """``-g' H^-1 g / 2`` of the dense likelihood along ``Sigma = K (I + D)(I + D)' K'``."""
    values, vectors = np.linalg.eigh(relative)
    K = vectors * np.sqrt(values)  # from the shorter to the longer axis
    basis = np.array(directions(kind))

    def value(x):
        root = K @ (np.eye(2) + np.tensordot(x, basis, axes=1))
        return dense_log_likelihood(*data, root @ root.T)

    I = step * np.eye(len(basis))  # noqa: E741
    slope = np.array([value(e) - value(-e) for e in I]) / (2 * step)
    hessian = [[value(d + e) - value(d - e) - value(e - d) + value(-d - e) for e in I] for d in I]
    return -0.5 * slope @ np.linalg.solve(np.array(hessian) / (4 * step**2), slope)


@pytest.mark.parametrize("n_targets", [1, 2])
@pytest.mark.parametrize("kind", STRUCTURES)
def test_decrement_is_that_of_differences_of_the_dense_likelihood(kind, n_targets):
    data = rows(n_targets)
    relative = np.array([[2.0, 0.4], [0.4, 3.0]]) if kind == "full" else np.diag([2.5, 2.5])
    expected = decrement_by_differences(data, relative, kind)
    assert expected > 0.01
    found = newton_decrement(moments_of(*data), STRUCTURES[kind], relative)
    assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("kind", STRUCTURES)
def test_newtons_step_has_the_decrement_and_leads_on_to_the_maximum(kind):
    moments, structure = moments_of(*rows()), STRUCTURES[kind]
    best = fit_reml(moments, structure, tol=1e-12)
    distances = []
    for size in (0.2, 0.1):
        at = likelihood(moments, best.relative * (1.0 + size), structure.information)
        second = second_derivative(moments, at, structure.information)
        step, change = structure.newton_step(at, second)
        decrement = newton_decrement(moments, structure, best.relative * (1.0 + size))
        assert_allclose(change, 2.0 * decrement, rtol=1e-9)
        root = at.to @ (np.diag(at.root) + step)
        distances.append(np.abs(root @ root.T - best.relative).max())
    assert distances[1] < 0.3 * distances[0]  # twice as near, four times as good


def test_there_is_no_newtons_step_where_the_likelihood_is_not_convex():
    moments, structure = moments_of(*rows()), STRUCTURES["full"]
    at = likelihood(moments, np.diag([1.0, 0.0]), "full")
    assert structure.newton_step(at, second_derivative(moments, at, "full")) is None


@pytest.mark.parametrize("kind", STRUCTURES)
def test_decrement_is_what_the_likelihood_lacks_near_its_maximum_and_nothing_at_it(kind):
    moments, structure = moments_of(*rows()), STRUCTURES[kind]
    best = fit_reml(moments, structure, tol=1e-12)
    assert newton_decrement(moments, structure, best.relative) < 1e-9
    near = best.relative * 1.1
    lacks = dense_log_likelihood(*rows(), best.relative) - dense_log_likelihood(*rows(), near)
    assert_allclose(newton_decrement(moments, structure, near), lacks, rtol=0.2)


def test_a_variance_that_would_rather_grow_is_no_local_maximum():
    moments = moments_of(*rows())
    asleep = np.diag([1.0, 0.0])
    assert newton_decrement(moments, STRUCTURES["full"], asleep) == np.inf


def test_a_variance_that_wants_to_be_zero_is_a_local_maximum():
    X, Z, y, groups = rows()
    alike = X @ [[1.0], [2.0], [3.0]] + np.random.default_rng(1).normal(size=y.shape)
    alike += X[:, :1] * np.repeat(np.random.default_rng(2).normal(size=8), 6)[:, None]
    moments = moments_of(X, Z, alike, groups)
    best = fit_reml(moments, STRUCTURES["diagonal"], tol=1e-12)
    assert best.singular
    assert newton_decrement(moments, STRUCTURES["diagonal"], best.relative) < 1e-8


def test_a_known_noise_does_not_move_with_the_covariance():
    X, Z, y, groups = rows()
    known = replace(moments_of(X, Z, y, groups), noise=0.3)
    relative, step = np.diag([2.5, 2.5]), 1e-3
    V = lambda s: np.eye(48) + s * 2.5 * (Z @ Z.T) * (groups[:, None] == groups)  # noqa: E731

    def value(d):
        inverse = np.linalg.inv(V((1 + d) ** 2))
        information = X.T @ inverse @ X
        rest = y - X @ np.linalg.solve(information, X.T @ inverse @ y)
        logs = np.linalg.slogdet(inverse)[1] - np.linalg.slogdet(information)[1]
        return 0.5 * (logs - (rest.T @ inverse @ rest).item() / 0.3)

    slope = (value(step) - value(-step)) / (2 * step)
    bend = (value(step) - 2 * value(0.0) + value(-step)) / step**2
    found = newton_decrement(known, STRUCTURES["tied"], relative)
    assert_allclose(found, -0.5 * slope**2 / bend, rtol=1e-4)


def assumption(model):
    return next(a for a in model.gap_certificate_.assumptions if "as it was learned" in a[0])


@pytest.mark.parametrize("options", [{}, {"metric": "diagonal", "criterion": "reml"}])
def test_fit_and_certificate_say_how_near_sigma_is_to_a_local_optimum(options):
    tasks = make_linear_tasks(12, 10, 2, noise=0.5, random_state=0)
    model = MAMLRegressor(adaptation=Proximal(**options)).fit(tasks)
    assert 0 <= model.learned_.newton_decrement < 1e-6
    assert "a Newton step would raise it by" in str(model.learned_)
    what, status = assumption(model)
    assert "local optimum of the restricted likelihood" in what
    assert "less than 1e-06" in status
    assert what in str(model.gap_certificate_)
    assert assumption(model) in model.certify(tasks).assumptions


def test_what_was_not_measured_is_said_so():
    tasks = make_linear_tasks(12, 10, 2, noise=0.5, random_state=0)
    query = MAMLRegressor(adaptation=Proximal(metric="diagonal", criterion="query")).fit(tasks)
    assert query.learned_.newton_decrement is None
    assert "local optimum of the query loss" in assumption(query)[0]
    assert "not measured" in assumption(query)[1]
    classes = [(X, (y > np.median(y)) * 1) for X, y in tasks]
    working = MAMLClassifier(adaptation=Proximal(metric="full")).fit(classes)
    assert "restricted likelihood of working responses" in assumption(working)[0]
    lengths = MAMLRegressor(adaptation=GradientSteps("learn")).fit(tasks)
    what = [a for a, _ in lengths.gap_certificate_.assumptions]
    assert any("lengths of steps, as they were learned" in text for text in what)


def test_where_nothing_was_learned_nothing_is_said():
    tasks = make_linear_tasks(12, 10, 2, noise=0.5, random_state=0)
    for rule in (GradientSteps(0.1), Proximal(1.0, "identity")):
        model = MAMLRegressor(adaptation=rule).fit(tasks)
        assert not any("learned," in what for what, _ in model.gap_certificate_.assumptions)
        assert model.learned_ is None or model.learned_.n_iter == 0


def test_no_local_maximum_is_said_to_be_none():
    tasks = make_linear_tasks(12, 10, 2, noise=0.5, random_state=0)
    learned = MAMLRegressor().fit(tasks).learned_
    _, status = replace(learned, newton_decrement=np.inf).optimality
    assert status.startswith("not so")
    assert "0.5" in replace(learned, newton_decrement=0.5).optimality[1]
