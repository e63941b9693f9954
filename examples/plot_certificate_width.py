"""
The bound falls as the network widens
=====================================

Theorem 1 of Wang, Cai, Yang & Wang (2020) bounds the gap of MAML's meta-loss by ``R * epsilon``
plus what the adapted features cannot represent. Here the data stay the same and the random network
that makes the features grows: once there are more features than query rows, nothing is left that
they cannot represent, and at a stationary point the bound is as good as zero, although these
meta-losses are not convex and their minimum is not known.
"""

import matplotlib.pyplot as plt

from sklearn_maml import MAMLClassifier, MAMLRegressor, NTKFeatures
from sklearn_maml.datasets import make_linear_tasks
from sklearn_maml.solvers import GaussNewton

# 10 tasks of 10 rows each: 100 query rows, in 8 dimensions.
N_ROWS, N_INPUTS = 100, 8
tasks = make_linear_tasks(10, 10, N_INPUTS, noise=1.0, random_state=0)
classes = [(X, y > 0) for X, y in tasks]
WIDTHS = [1, 2, 4, 8, 16, 32, 64]


def certificates(model, data):
    """One certificate a width; the network has ten features a hidden unit."""
    for width in WIDTHS:
        featurizer = NTKFeatures(width, random_state=0)
        model.set_params(featurizer=featurizer, solver=GaussNewton(tol=1e-13, max_iter=500))
        yield model.fit(data).gap_certificate_


results = {
    "pseudo-Huber": list(certificates(MAMLRegressor("auto", loss="pseudo_huber"), tasks)),
    "log-loss": list(certificates(MAMLClassifier("auto", alpha=0.0), classes)),
}

# %%
# The bound of Theorem 1 and its parts. ``theorem`` holds ``R * epsilon`` and the representation
# error times the weight norm; ``minima`` compares with each task's own best fit and is never
# larger. The last column is the meta-loss itself.
FEATURES = [(N_INPUTS + 2) * width + 1 for width in WIDTHS]
for name, column in results.items():
    print(f"\n{name}\n{'features':>9}{'theorem':>11}{'R eps':>11}{'minima':>11}{'meta-loss':>11}")
    for features, c in zip(FEATURES, column, strict=True):
        routes = dict(c.routes)
        print(
            f"{features:>9}{routes['Theorem 1']:>11.2e}{c.radius * c.epsilon:>11.2e}"
            f"{routes['query minima']:>11.2e}{c.meta_loss:>11.2e}"
        )

# %%
# The same as a picture.
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True, layout="constrained")
for axis, (name, column) in zip(axes, results.items(), strict=True):
    theorem = [dict(c.routes)["Theorem 1"] for c in column]
    axis.loglog(FEATURES, theorem, "o-", label="bound of Theorem 1")
    axis.loglog(FEATURES, [c.meta_loss for c in column], "s--", label="meta-loss")
    axis.loglog(FEATURES, [c.radius * c.epsilon for c in column], "^:", label="$R \\epsilon$")
    axis.axvline(N_ROWS, color="gray", lw=0.8)
    axis.set(title=name, xlabel="features (line: number of query rows)")
axes[0].legend()
plt.show()

# %%
# How to read it: left of the grey line there are fewer features than query rows; the bound is of
# the size of the loss itself, and says nothing. Right of it both fall to rounding error. That is
# not learning: a network that wide fits any query rows. What falls is the gap, not the error on new
# tasks.
