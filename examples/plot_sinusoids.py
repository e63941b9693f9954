"""
The sinusoids of Finn et al.: what does a network buy?
======================================================

The task that model-agnostic meta-learning was introduced with: from five or ten points of a
sinusoid, whose amplitude and phase differ from task to task, predict the rest of it. Finn, Abbeel &
Levine (2017) meta-train a network of two hidden layers of 40 units; after ten gradient steps on a
new task its mean squared error is 0.33 with five points and 0.11 with ten. How far do linear models
get, if features are general and the rule is learned?
"""

import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import SplineTransformer

from sklearn_maml import MAMLRegressor, NTKFeatures, Proximal
from sklearn_maml.datasets import make_sinusoid_tasks

train = make_sinusoid_tasks(200, 20, random_state=0)
test = make_sinusoid_tasks(200, 60, random_state=1)

# %%
# Three kinds of features, none of which knows of sinusoids: splines, and the tangent features of a
# wide random network, with a smooth activation and with ReLU. A full metric learns along which
# directions of these features tasks differ. For sinusoids there are two of them. The last model
# takes the papers' gradient step instead, on the same splines.


def network(activation):
    """The first components of a wide network's tangent features."""
    features = NTKFeatures(200, activation=activation, random_state=0)
    return make_pipeline(features, PCA(15, random_state=0))


learned = Proximal(metric="full")
splines = SplineTransformer(12)
models = {
    "splines": MAMLRegressor(featurizer=splines, adaptation=learned, random_state=0),
    "wide network, erf": MAMLRegressor(
        featurizer=network("erf"), adaptation=learned, random_state=0
    ),
    "wide network, ReLU": MAMLRegressor(
        featurizer=network("relu"), adaptation=learned, random_state=0
    ),
    "splines, one gradient step": MAMLRegressor(inner_lr="auto", featurizer=splines),
}
SHOTS = (5, 10)
PUBLISHED = {5: 0.33, 10: 0.11}


def error(model, k):
    """Mean squared error on the points after the first k of each new sinusoid."""
    adapted = model.adapt_tasks([(X[:k], y[:k]) for X, y in test])
    errors = [
        np.mean((one.predict(X[k:]) - y[k:]) ** 2)
        for one, (X, y) in zip(adapted.values(), test, strict=True)
    ]
    return np.mean(errors)


with warnings.catch_warnings():
    # Without noise the likelihood has no maximum, so that no search for it ends.
    warnings.simplefilter("ignore", ConvergenceWarning)
    for model in models.values():
        model.fit(train)
errors = {name: [error(model, k) for k in SHOTS] for name, model in models.items()}
errors["MAML network (published)"] = [PUBLISHED[k] for k in SHOTS]
print(f"{'':30}" + "".join(f"{k:>4} points" for k in SHOTS))
for name, row in errors.items():
    print(f"{name:30}" + "".join(f"{value:11.5f}" for value in row))

# %%
# One new sinusoid, and what each model makes of its first five points (left); all new sinusoids
# (right).

colours = dict(zip(errors, ("C0", "C2", "C1", "C4", "0.4"), strict=True))
figure, (left, right) = plt.subplots(1, 2, figsize=(14, 4), layout="constrained")
X, y = test[16]
grid = np.linspace(-5, 5, 200)[:, None]
for name, model in models.items():
    prediction = model.adapt(X[:5], y[:5]).predict(grid)
    left.plot(grid, prediction, color=colours[name], label=name, lw=3 if name == "splines" else 1.5)
left.plot(X[5:], y[5:], "o", color="k", markerfacecolor="w", label="to be predicted")
left.plot(X[:5], y[:5], "ko", label="seen")
left.set(xlabel="x", ylabel="y")
figure.legend(*left.get_legend_handles_labels(), loc="outside left center", frameon=False)
place = np.arange(len(errors))
for k, hatch in zip(SHOTS, ("", "//"), strict=True):
    values = [row[SHOTS.index(k)] for row in errors.values()]
    bars = right.barh(place + 0.4 * (k == 10), values, 0.38, color=list(colours.values()))
    for bar in bars:
        bar.set(hatch=hatch, edgecolor="w")
right.set(xscale="log", xlabel="mean squared error after 5 points, and after 10 (hatched)")
right.set_yticks(place + 0.2, list(errors))
right.invert_yaxis()
plt.show()

# %%
# How to read it: a bar ten times as short is an error ten times as small. Splines and a wide
# network with a smooth activation come close to zero, since the points of a sinusoid without noise
# determine it once the two directions are known. ReLU features are kinked, and their first
# components too coarse: after ten points they lose to the published network. A gradient step does
# not know the directions: on the same splines it loses by far to that network, which learned
# features of its own, and ten points tell it hardly more than five. The published figures are of
# other draws of the same family, and of a network that had seen many more tasks.
