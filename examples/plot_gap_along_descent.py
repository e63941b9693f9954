"""
The gap and its certificate along gradient descent
==================================================

When is a fit by gradient descent good enough? A certificate is asked for at a point, and knows
nothing of how a solver got there: so each step can have one. With the squared loss the minimum is
known, and the bound can be held against the true gap; with other losses there is the bound alone.
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from sklearn_maml import GradientDescent, MAMLRegressor
from sklearn_maml.datasets import make_linear_tasks
from sklearn_maml.displays import ConvergenceDisplay

tasks = make_linear_tasks(n_tasks=60, noise=0.5, random_state=0)

# %%
# The exact minimum, and gradient descent that is stopped after 1, 2, 4, ... steps.

exact = MAMLRegressor(inner_lr=0.1).fit(tasks)
STEPS = [1, 2, 4, 8, 16, 32]
gaps, bounds = [], []
for n_steps in STEPS:
    solver = GradientDescent(learning_rate=0.2, tol=0.0, max_iter=n_steps)
    with warnings.catch_warnings():  # stopped early on purpose
        warnings.simplefilter("ignore", category=ConvergenceWarning)
        model = MAMLRegressor(inner_lr=0.1, solver=solver).fit(tasks)
    gaps.append(model.meta_loss_ - exact.meta_loss_)
    bounds.append(model.gap_certificate_.bound)
    print(f"after {n_steps:3d} steps {gaps[-1]:9.2e} above the minimum, at most {bounds[-1]:9.2e}")

# %%
# Every seventh target is now off by 8, and a robust loss takes no notice. `ConvergenceDisplay` runs
# the solver again and certifies its iterates.

outliers = [(X, y + 8.0 * (np.arange(len(y)) % 7 == 0)) for X, y in tasks]
robust = MAMLRegressor(inner_lr=0.1, loss="pseudo_huber", solver="gradient_descent").fit(outliers)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
left.loglog(STEPS, bounds, "s--", label="certified bound")
left.loglog(STEPS, gaps, "o-", label="true gap")
left.set(xlabel="steps of gradient descent", ylabel="above the minimum", title="squared loss")
left.legend(frameon=False)
ConvergenceDisplay.from_estimator(robust, outliers, ax=right)
plt.show()

# %%
# How to read it: on the left the bound is never below the gap, and falls with it: whoever stops
# where the bound is small enough has stopped well, without knowing the minimum. On the right nobody
# knows it. The dashed line is what no parameters can fall below, as far as was proved up to that
# step; the solver's loss runs down to near it, and what stays between them is what is not known.
