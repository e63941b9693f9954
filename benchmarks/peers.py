"""Those whom `compare_peers` compares: each solves the same problem in its own way.

A `Peer` says which module it needs, and makes of a problem a function without arguments that
solves it and returns the solution. What a peer needs is imported when it is asked, so that imports
can be timed.
"""

import importlib.util
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

ALPHA = 1e-3  # penalty of the meta-parameters
TOLERANCE, MAX_ITER = 1e-8, 1_000  # of the iterative solvers
STATSMODELS = "statsmodels.regression.mixed_linear_model"
LME4 = Path(__file__).with_name("peers_lme4.R")


@dataclass(frozen=True)
class Peer:
    """Somebody who solves a problem; `solver` names the call, `module` is what it needs."""

    package: str
    how: str
    module: str
    solver: Callable

    @property
    def name(self):
        return f"{self.package}, {self.how}" if self.how else self.package

    def missing(self):
        """Whether the module (or, for R, the program and the package) cannot be found."""
        if self.module != "lme4":
            return importlib.util.find_spec(self.module.split(".")[0]) is None
        asks = ["Rscript", "-e", "quit(status = !requireNamespace('lme4', quietly = TRUE))"]
        return not shutil.which("Rscript") or subprocess.run(asks, capture_output=True).returncode


# --------------------------------------------------------------------------------------------------
# MAML of a linear model with the squared loss


@dataclass(frozen=True)
class MetaProblem:
    """Linear tasks of one size that adapt by gradient steps; columns differ in size tenfold."""

    n_tasks: int
    n_rows: int
    n_features: int
    n_steps: int

    @cached_property
    def rows(self):
        """Features (n_tasks, n_rows, n_features) and targets (n_tasks, n_rows)."""
        n, m, d = self.n_tasks, self.n_rows, self.n_features
        rng = np.random.default_rng(0)
        X = rng.normal(size=(n, m, d)) * np.geomspace(1, 0.1, d)
        common, own = rng.normal(size=d), 0.3 * rng.normal(size=(n, d))
        noise = rng.normal(size=(n, m)) * np.sqrt(d) / 10
        return X, np.einsum("nmd,nd->nm", X, common + own) + noise

    @cached_property
    def inner_lr(self):
        """The length of the inner steps: 0.9 of the longest that is safe for every task."""
        X, _ = self.rows
        return 0.9 * self.n_rows / (2 * np.linalg.norm(X, 2, axis=(1, 2)).max() ** 2)

    def loss(self, theta):
        """The meta-loss, by its definition."""
        X, y = self.rows
        own = np.broadcast_to(theta, (self.n_tasks, self.n_features))
        for _ in range(self.n_steps):
            residual = np.einsum("nmd,nd->nm", X, own) - y
            gradient = 2 / self.n_rows * np.einsum("nmd,nm->nd", X, residual)
            own = own - self.inner_lr * gradient
        residual = np.einsum("nmd,nd->nm", X, own) - y
        return (residual**2).mean() + ALPHA * theta @ theta


def by_maml(problem, certificate):
    from sklearn_maml import MAMLRegressor

    X, y = problem.rows
    data = {"X": X.reshape(-1, problem.n_features), "y": y.ravel()}
    data["groups"] = np.repeat(np.arange(problem.n_tasks), problem.n_rows)
    model = MAMLRegressor(
        problem.inner_lr,
        problem.n_steps,
        alpha=ALPHA,
        fit_intercept=False,
        support="all",
        certificate=certificate,
    )
    return lambda: model.fit(**data).coef_


def in_jax(problem):
    """The residuals of a task after its steps, the meta-loss, and the rows, in JAX."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    inner_lr, n_steps = problem.inner_lr, problem.n_steps

    def residuals(theta, X, y):
        gradient = jax.grad(lambda own: jnp.mean((X @ own - y) ** 2))
        for _ in range(n_steps):
            theta = theta - inner_lr * gradient(theta)
        return X @ theta - y

    def meta_loss(theta, X, y):
        each = jax.vmap(residuals, (None, 0, 0))(theta, X, y)
        return jnp.mean(each**2) + ALPHA * theta @ theta

    return residuals, meta_loss, tuple(map(jnp.asarray, problem.rows))


def by_jax_jacobian(problem):
    """Automatic derivatives of all adapted residuals, and one linear system."""
    import jax
    import jax.numpy as jnp

    residuals, _, rows = in_jax(problem)
    zero, diagonal = jnp.zeros(problem.n_features), ALPHA * jnp.eye(problem.n_features)

    def both(X, y):
        return residuals(zero, X, y), jax.jacrev(residuals)(zero, X, y)

    @jax.jit
    def solve(X, y):
        residual, J = jax.vmap(both)(X, y)
        residual, J = residual.ravel(), J.reshape(-1, problem.n_features)
        H = J.T @ J / len(residual) + diagonal
        return jax.scipy.linalg.solve(H, -J.T @ residual / len(residual), assume_a="pos")

    return lambda: np.asarray(solve(*rows))


def by_jax_cg(problem):
    """Conjugate gradients on the normal equations, by products of the Hessian with a vector."""
    import jax
    import jax.numpy as jnp

    _, meta_loss, rows = in_jax(problem)

    @jax.jit
    def solve(X, y):
        gradient = lambda theta: jax.grad(meta_loss)(theta, X, y)  # noqa: E731
        at_zero, product = jax.linearize(gradient, jnp.zeros(problem.n_features))
        cg = jax.scipy.sparse.linalg.cg
        return cg(product, -at_zero, tol=TOLERANCE, maxiter=MAX_ITER)[0]

    return lambda: np.asarray(solve(*rows))


def by_jax_lbfgs(problem):
    """L-BFGS of scipy with compiled values and gradients."""
    import jax
    from scipy.optimize import minimize

    _, meta_loss, rows = in_jax(problem)
    both = jax.jit(jax.value_and_grad(meta_loss))

    def evaluate(theta):
        value, gradient = both(theta, *rows)
        return float(value), np.asarray(gradient)

    options = {"gtol": TOLERANCE, "ftol": 0.0, "maxiter": MAX_ITER}
    start = np.zeros(problem.n_features)
    return lambda: minimize(evaluate, start, jac=True, method="L-BFGS-B", options=options).x


def by_torch(problem):
    """torch.optim.LBFGS with gradients of torch.func: `torch_peer`."""
    import torch_peer

    X, y = problem.rows
    query = SimpleNamespace(features=X, targets=y, weights=np.full(y.shape, 1 / problem.n_rows))
    block = SimpleNamespace(query=query, weight=np.full(len(y), 1 / len(y)))
    objective = SimpleNamespace(blocks=[block], penalty=np.full(problem.n_features, ALPHA))
    step = np.full(len(y), problem.inner_lr)
    evaluate = torch_peer.value_and_gradient(objective, "squared_error", step, problem.n_steps)

    start, ignore = np.zeros(problem.n_features), lambda value: None
    return lambda: torch_peer.lbfgs(evaluate, start, ignore, MAX_ITER, TOLERANCE)


def by_torch_loop(problem, n_outer=200, batch_size=25):
    """Algorithm 1 of Finn et al. as learn2learn's examples write it: task by task, Adam outside."""
    import torch

    X, y = (torch.as_tensor(part) for part in problem.rows)

    def adapted_loss(theta, X, y):
        own = theta
        for _ in range(problem.n_steps):
            loss = torch.mean((X @ own - y) ** 2)
            own = own - problem.inner_lr * torch.autograd.grad(loss, own, create_graph=True)[0]
        return torch.mean((X @ own - y) ** 2)

    def solve():
        theta = torch.zeros(problem.n_features, dtype=X.dtype, requires_grad=True)
        optimizer = torch.optim.Adam([theta], lr=0.1)
        draw = torch.Generator().manual_seed(0)
        for _ in range(n_outer):
            optimizer.zero_grad()
            for i in torch.randperm(len(y), generator=draw)[:batch_size]:
                (adapted_loss(theta, X[i], y[i]) / batch_size).backward()
            (ALPHA * theta @ theta).backward()
            optimizer.step()
        return theta.detach().numpy()

    return solve


META_PEERS = (
    Peer("sklearn_maml", "", "sklearn_maml", lambda p: by_maml(p, None)),
    Peer("sklearn_maml", "with certificate", "sklearn_maml", lambda p: by_maml(p, "fast")),
    Peer("JAX", "Jacobian and one solve", "jax", by_jax_jacobian),
    Peer("JAX", "CG", "jax", by_jax_cg),
    Peer("JAX", "L-BFGS", "jax", by_jax_lbfgs),
    Peer("torch.func", "L-BFGS", "torch", by_torch),
    Peer("PyTorch", "loop over tasks, Adam", "torch", by_torch_loop),
)


# --------------------------------------------------------------------------------------------------
# Linear mixed models


class Variances(NamedTuple):
    """What REML finds: the covariance of intercept and slope (2, 2), and the residual variance."""

    covariance: np.ndarray
    residual: float


@dataclass(frozen=True)
class MixedProblem:
    """Groups of five rows with an intercept and a slope of their own: ``y ~ x + (1 + x | g)``."""

    n_groups: int
    n_rows: int = 5

    @cached_property
    def rows(self):
        """The feature (n,), the target (n,) and the group (n,), sorted by group."""
        rng, groups = np.random.default_rng(0), np.repeat(np.arange(self.n_groups), self.n_rows)
        x = rng.normal(size=len(groups))
        own = rng.normal(size=(self.n_groups, 2)) * [1.0, 0.5]
        y = 1 + 2 * x + own[groups, 0] + own[groups, 1] * x + rng.normal(size=len(x))
        return x, y, groups

    @property
    def design(self):
        """Intercept and feature (n, 2): of the fixed and of the random effects."""
        return np.column_stack([np.ones(self.n_groups * self.n_rows), self.rows[0]])

    def loss(self, found):
        """``-2 log`` restricted likelihood at `Variances`, by its definition."""
        Z = self.design.reshape(self.n_groups, self.n_rows, 2)
        y = self.rows[1].reshape(self.n_groups, self.n_rows)
        V = Z @ found.covariance @ Z.transpose(0, 2, 1) + found.residual * np.eye(self.n_rows)
        solved = np.linalg.solve(V, np.concatenate([Z, y[..., None]], axis=-1))
        information = np.einsum("nmj,nmk->jk", Z, solved[..., :2])
        score = np.einsum("nmj,nm->j", Z, solved[..., 2])
        quadratic = (y * solved[..., 2]).sum() - score @ np.linalg.solve(information, score)
        volume = np.linalg.slogdet(V)[1].sum() + np.linalg.slogdet(information)[1]
        return volume + quadratic + (y.size - 2) * np.log(2 * np.pi)


def mixed_by_maml(problem):
    from sklearn_maml import MAMLRegressor, Proximal

    x, y, groups = problem.rows
    rule = Proximal(strength=1.0, metric="full")
    model = MAMLRegressor(adaptation=rule, certificate=None, random_state=0)

    def solve():
        found = model.fit(x[:, None], y, groups=groups).learned_
        order = np.ix_([1, 0], [1, 0])  # the intercept first
        return Variances(found.covariance[order], found.residual_variance)

    return solve


def mixed_by_glmm(problem):
    import glmm

    x, y, groups = problem.rows
    columns = {"x": x, "y": y, "g": groups.astype(str)}

    def solve():
        fit = glmm.fit(columns, "y ~ x + (1 + x | g)", "gaussian", satterthwaite=False)
        deviation, correlation = fit.stddev_corr(0)
        return Variances(np.outer(deviation, deviation) * correlation, fit.dispersion)

    return solve


def mixed_by_mixedlm(problem, module):
    """statsmodels, and mixedlm-rs, which has its interface."""
    model = importlib.import_module(module).MixedLM
    _, y, groups = problem.rows
    X = problem.design

    def solve():
        fit = model(y, X, groups, exog_re=X).fit()
        return Variances(np.asarray(fit.cov_re), float(fit.scale))

    return solve


def mixed_by_lme4(problem):
    """lme4, in R; `solve.imports` and `solve.seconds` are then the CPU seconds that R counted."""

    def solve():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "rows.csv")
            table = np.column_stack(problem.rows)
            np.savetxt(path, table, "%.17g", ",", header="x,y,g", comments="")
            call = ["Rscript", str(LME4), str(path)]
            run = subprocess.run(call, capture_output=True, text=True, check=False)
        if run.returncode == -signal.SIGXCPU:
            raise TimeoutError
        if run.returncode:
            raise RuntimeError(run.stderr)
        solve.imports, solve.seconds, a, b, c, residual = map(float, run.stdout.split())
        return Variances(np.array([[a, b], [b, c]]), residual)

    return solve


MIXED_PEERS = (
    Peer("sklearn_maml", "", "sklearn_maml", mixed_by_maml),
    Peer("glmm", "", "glmm", mixed_by_glmm),
    Peer("mixedlm-rs", "", "mixedlm_rs", lambda p: mixed_by_mixedlm(p, "mixedlm_rs")),
    Peer("lme4", "", "lme4", mixed_by_lme4),
    Peer("statsmodels", "", STATSMODELS, lambda p: mixed_by_mixedlm(p, STATSMODELS)),
)
