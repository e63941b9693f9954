"""
What first-order MAML costs
===========================

The gradient of the meta-loss goes through the inner steps: it needs their derivative, ``J = I - eta
H``. First-order MAML leaves it out, as if ``J = I``, which saves work for neural networks, and was
found to be good enough there. It is then no gradient of anything, and its descent ends elsewhere.
How far off? Here the minimum is known, and a certificate says how far each point is from it at
most.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_maml import GradientDescent, GradientSteps, MAMLRegressor

# %%
# Half of the tasks have inputs four times as large as the others, and another slope. A gradient
# step moves them sixteen times as far: their J is nearer to 0, and they should have the less say in
# where all tasks start from. First-order MAML does not know that.

rng = np.random.default_rng(0)


def task():
    """Twenty rows of a line through the origin, with small or large inputs."""
    large = rng.random() < 0.5
    x = (2.0 if large else 0.5) * rng.normal(size=(20, 1))
    slope = (3.0 if large else -1.0) + 0.3 * rng.normal()
    return x, slope * x[:, 0] + 0.3 * rng.normal(size=20)


tasks = [task() for _ in range(100)]

# %%
# The same steps of the same length, with and without their derivative.

LENGTHS = [0.003, 0.01, 0.03, 0.1, 0.2, 0.3]
table = []
for length in LENGTHS:
    exact = MAMLRegressor(length).fit(tasks)
    rule = GradientSteps(length, first_order=True)
    descent = GradientDescent(learning_rate=0.05, tol=1e-8, max_iter=20_000)
    first = MAMLRegressor(adaptation=rule, solver=descent).fit(tasks)
    gap = first.meta_loss_ - exact.meta_loss_
    table.append((exact.coef_[0], first.coef_[0], gap, first.gap_certificate_.bound))
    print(
        f"inner step {length:<5}: slope {first.coef_[0]:5.2f} where {exact.coef_[0]:5.2f} is best; "
        f"{gap / exact.meta_loss_:6.2%} above the minimum"
    )
best, found, gap, bound = np.transpose(table)

# %%
# The slope from which tasks start, and the gap, beside the bound that a certificate gives without
# knowing the minimum.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
left.semilogx(LENGTHS, best, "o-", label="minimum of the meta-loss")
left.semilogx(LENGTHS, found, "s--", label="first-order MAML")
left.set(xlabel="length of the inner step", ylabel="slope to start from")
left.legend(frameon=False)
right.loglog(LENGTHS, gap, "o-", label="true gap")
right.loglog(LENGTHS, bound, "s--", label="certified bound")
right.set(xlabel="length of the inner step", ylabel="above the minimum")
right.legend(frameon=False)
plt.show()

# %%
# How to read it: with short steps J is nearly I, both slopes agree and the gap is small, growing
# with the square of the step. With long ones first-order MAML starts from elsewhere, and leaves 14
# to 27 percent of the loss on the table. The certificate's bound is twice the gap, as it must be
# for the squared loss. For models that are linear in their features the derivative costs next to
# nothing, so that the only reason to leave it out is to study what happens then.
