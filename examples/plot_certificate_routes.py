"""
What is known of the gap along the way
======================================

A solver that goes downhill on a meta-loss which is not convex may end in a local minimum. Here
iterates of gradient descent are certified, by several routes, and compared with the true gap: what
each is above the global minimum, which another certificate proves. Each route is valid at each
iterate. What lets every task choose for itself stays wide; what keeps one theta for all tasks is
tighter; and once the iterate is near, convexity as seen from it takes over.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_maml import GradientDescent, MAMLClassifier
from sklearn_maml.datasets import make_linear_tasks

tasks = make_linear_tasks(30, 20, 5, noise=2.0, random_state=0)
classes = [(X, y > 0) for X, y in tasks]
ITERATIONS = [1, 2, 4, 8, 16, 32, 64, 128, 256]
ROUTES = ["query minima", "Theorem 1, relaxed", "Corollary 5", "Theorem 4"]


def fit(n_iter):
    """The model after some iterations of gradient descent."""
    model = MAMLClassifier(
        inner_lr=0.1, support="all", certificate="full", solver=GradientDescent(max_iter=n_iter)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopping early is the point
        return model.fit(classes)


best = MAMLClassifier(inner_lr=0.1, support="all", certificate="full").fit(classes)
print(best.gap_certificate_)

# %%
# The true gap is the difference to the best fit, which its own certificate proves to be the global
# minimum. A route that proves nothing at an iterate is left out there.
table = []
for n_iter in ITERATIONS:
    certificate = fit(n_iter).gap_certificate_
    routes = dict(certificate.routes)
    gap = certificate.meta_loss - best.meta_loss_
    table.append([n_iter, gap, *(routes.get(name, np.nan) for name in ROUTES)])
table = np.array(table)
print(f"{'iteration':>10}{'true gap':>12}" + "".join(f"{name:>20}" for name in ROUTES))
for n_iter, gap, *bounds in table:
    print(f"{int(n_iter):>10}{gap:>12.2e}" + "".join(f"{bound:>20.2e}" for bound in bounds))

# %%
# The same as a picture.
figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
for name, column in zip(ROUTES, table.T[2:], strict=True):
    axis.loglog(table[:, 0], column, "o-", label=name)
axis.loglog(table[:, 0], np.maximum(table[:, 1], 1e-16), "k--", label="true gap")
axis.set(xlabel="iterations of gradient descent", ylabel="bound on the gap")
axis.legend()
plt.show()

# %%
# How to read it: a line is valid wherever it is, and the lowest one at an iterate is what the
# certificate reports there. The dashed true gap is known only since another certificate proved
# where the minimum is. The two upper routes stay wide, however long the solver runs: they do not
# know how near it is. From a few iterations on Theorem 4 is as good as the truth.
