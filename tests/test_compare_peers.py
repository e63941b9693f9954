"""What `benchmarks/compare_peers.py` compares is one problem, and nobody's answer is better."""

import multiprocessing
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import compare_peers
from peers import ALPHA, META_PEERS, MIXED_PEERS, MetaProblem, MixedProblem, Peer, Variances

META = MetaProblem(n_tasks=30, n_rows=6, n_features=4, n_steps=2)
MIXED = MixedProblem(n_groups=60)


def answer(peers, index, problem):
    return getattr(compare_peers, peers)[index].solver(problem)()


@pytest.fixture(scope="module")
def ask():
    """A function that asks a peer in another process: JAX and fork do not go together."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield lambda *args: pool.apply(answer, args)


def least_meta_loss(problem):
    """The least meta-loss and its argument, from the closed form of the adapted residuals."""
    X, y = problem.rows
    designs, targets = [], []
    for X_i, y_i in zip(X, y, strict=True):
        keep = np.eye(problem.n_rows) - 2 * problem.inner_lr / problem.n_rows * X_i @ X_i.T
        after = np.linalg.matrix_power(keep, problem.n_steps)
        designs.append(after @ X_i)
        targets.append(after @ y_i)
    root = np.sqrt(ALPHA * y.size) * np.eye(problem.n_features)
    design = np.vstack([*designs, root])
    target = np.concatenate([*targets, np.zeros(problem.n_features)])
    theta = np.linalg.lstsq(design, target, rcond=None)[0]
    return ((target - design @ theta) ** 2).sum() / y.size, theta


def test_the_meta_loss_is_that_of_the_closed_form():
    least, theta = least_meta_loss(META)
    assert META.loss(theta) == pytest.approx(least, rel=1e-12)
    assert META.loss(theta + 0.01) > least * 1.0001


@pytest.mark.parametrize("index", range(len(META_PEERS)), ids=[peer.name for peer in META_PEERS])
def test_peers_solve_the_same_meta_problem_and_none_better(ask, index):
    peer = META_PEERS[index]
    if peer.missing():
        pytest.skip(f"{peer.module} is not installed")
    least, _ = least_meta_loss(META)
    found = META.loss(ask("META_PEERS", index, META))
    close = 0.1 if "Adam" in peer.name else 1e-9
    assert least * (1 - 1e-12) <= found <= least * (1 + close)


def test_the_restricted_likelihood_is_that_of_statsmodels():
    from statsmodels.regression.mixed_linear_model import MixedLM

    model = MixedLM(MIXED.rows[1], MIXED.design, MIXED.rows[2], exog_re=MIXED.design)
    fit = model.fit()
    at = Variances(fit.cov_re, fit.scale)
    assert MIXED.loss(at) == pytest.approx(-2 * fit.llf, rel=1e-10)


@pytest.mark.parametrize("index", range(len(MIXED_PEERS)), ids=[peer.name for peer in MIXED_PEERS])
def test_peers_solve_the_same_mixed_model_and_none_better(ask, index):
    peer = MIXED_PEERS[index]
    if peer.missing():
        pytest.skip(f"{peer.module} is not installed")
    ours = MIXED.loss(ask("MIXED_PEERS", 0, MIXED))
    found = MIXED.loss(ask("MIXED_PEERS", index, MIXED))
    assert ours - 1e-8 <= found <= ours + 1e-4


def test_a_missing_peer_is_said_to_be(monkeypatch):
    absent = Peer("nobody", "", "no_such_module", None)
    monkeypatch.setitem(compare_peers.KINDS, "mixed", (absent,))
    assert compare_peers.solved("mixed", 0, {"small": MIXED}, 1) == {"small": "not installed"}
