"""
Choosing a rule: how should a few rows move a model?
====================================================

Groups differ in level by much, in slope by little, and not at all in the effect of a third thing. A
new group has shown three rows. One gradient step moves all parameters alike; a ridge regression on
the group's rows forgets what others know; a random intercept moves the level only; the learned rule
moves each parameter as far as groups differ in it. Which is best, and for how many rows?
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LinearRegression, Ridge

from sklearn_maml import MAMLRegressor, Proximal

rng = np.random.default_rng(0)


def group(n=30):
    """Rows of a group: a level, a slope, and an effect that is the same in all groups."""
    X = np.column_stack([rng.uniform(0, 10, n), rng.normal(size=n)])
    level, slope = rng.normal(20, 6), rng.normal(1.0, 0.5)
    return X, level + slope * X[:, 0] + 3.0 * X[:, 1] + rng.normal(size=n)


known, new = [group() for _ in range(100)], [group() for _ in range(200)]
intercept = Proximal(random_effects="intercept")
rules = {
    "learned rule (default)": MAMLRegressor(random_state=0),
    "random intercept": MAMLRegressor(adaptation=intercept, random_state=0),
    "one gradient step": MAMLRegressor(inner_lr="auto"),
}
for model in rules.values():
    model.fit(known)
print(rules["learned rule (default)"].learned_)

# %%
# One new group. The second feature is set to zero in the picture, so that each model is a line.

K = 3
X, y = new[4]
line = np.column_stack([np.linspace(0, 10, 50), np.zeros(50)])
figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
for name, model in rules.items():
    axis.plot(line[:, 0], model.adapt(X[:K], y[:K]).predict(line), label=name)
alone = Ridge(alpha=1.0).fit(X[:K], y[:K])
axis.plot(line[:, 0], alone.predict(line), label="ridge on the three rows")
axis.plot(line[:, 0], rules["one gradient step"].predict(line), "--", color="0.6", label="before")
axis.plot(X[:K, 0], y[:K] - 3 * X[:K, 1], "ko", label="seen")
axis.plot(X[K:, 0], y[K:] - 3 * X[K:, 1], "o", color="0.7", markerfacecolor="w", label="to come")
axis.set(xlabel="first feature", ylabel="target, less the second feature's effect")
axis.legend(frameon=False, fontsize="small")
plt.show()

# %%
# All new groups, by the number of rows they have shown.

SHOTS = (1, 2, 3, 5, 10, 20)


def error(adapt, k):
    """Mean squared error on the rows after the first k."""
    return np.mean([np.mean((adapt(X[:k], y[:k]).predict(X[k:]) - y[k:]) ** 2) for X, y in new])


curves = {name: [error(model.adapt, k) for k in SHOTS] for name, model in rules.items()}
ridge = Ridge(alpha=1.0)
curves["ridge on its rows"] = [error(ridge.fit, k) for k in SHOTS]
pooled = LinearRegression().fit(*(np.concatenate(part) for part in zip(*known, strict=True)))
curves["one line for all"] = [error(lambda X, y: pooled, k) for k in SHOTS]
figure, axis = plt.subplots(figsize=(9, 4), layout="constrained")
for name, curve in curves.items():
    axis.plot(SHOTS, curve, "o-", label=name)
    print(f"{name:24}" + "".join(f"{value:8.2f}" for value in curve))
axis.axhline(1.0, color="0.8", label="noise")
axis.set(xscale="log", yscale="log", xlabel="rows of the new group", ylabel="mean squared error")
axis.set_xticks(SHOTS, SHOTS)
axis.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %%
# How to read it: lower is better, and nothing can be below the noise. The learned rule is the
# lowest line for every number of rows. A random intercept is nearly as good with one row, which
# cannot tell a slope, and stays behind after that. A ridge on the group's own rows has not quite
# caught up after twenty: where its line meets the learned one, what other groups know is no longer
# worth anything. A gradient step is never best: in standardised features, and further for the
# intercept, it moves the two slopes alike, though one of them is the same in all groups.
