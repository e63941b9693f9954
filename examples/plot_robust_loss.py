"""
Tasks with outliers: pseudo-Huber against squares
=================================================

Some rows of every task are wrong by a lot: a slipped decimal point, a sensor that fell off. The
squared loss lets them decide, in the meta-parameters as well as in each task's own. The
pseudo-Huber loss pulls at an outlier no harder than at a row ``delta`` away.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_maml import MAMLRegressor, PseudoHuber
from sklearn_maml.datasets import make_linear_tasks

rng = np.random.default_rng(0)
clean = make_linear_tasks(n_tasks=300, n_samples=40, random_state=0)


def spoil(y, share):
    """A share of the targets is off by 30 times a standard normal."""
    return y + (rng.random(len(y)) < share) * 30 * rng.standard_normal(len(y))


def error(model, tasks, share):
    """Mean squared error on clean rows after adapting to 15 rows with outliers."""
    errors = []
    for X, y in tasks:
        adapted = model.adapt(X[:15], spoil(y[:15], share))
        errors.append(np.mean((adapted.predict(X[15:]) - y[15:]) ** 2))
    return np.mean(errors)


# %%
# Both are fitted on 200 tasks and judged on 100 others. On clean data the two are alike; as soon as
# there are outliers, squares are much worse. Where a fifth of the rows is wrong, the pseudo-Huber
# loss loses most of its lead: fifteen rows then hold three outliers, and how tasks differ is
# learned from such rows too.
SHARES = [0.0, 0.02, 0.05, 0.1, 0.2]
LOSSES = {"squared error": "squared_error", "pseudo-Huber": PseudoHuber(delta=1.0)}
errors = {name: [] for name in LOSSES}
print(f"{'outliers':>9}" + "".join(f"{name:>16}" for name in LOSSES))
for share in SHARES:
    train = [(X, spoil(y, share)) for X, y in clean[:200]]
    for name, loss in LOSSES.items():
        model = MAMLRegressor(loss=loss, support=15, random_state=0).fit(train)
        errors[name].append(error(model, clean[200:], share))
    print(f"{share:>9.0%}" + "".join(f"{errors[name][-1]:>16.3f}" for name in LOSSES))

# %%
# The pseudo-Huber meta-loss is not convex. The certificate says how far from the optimum the last
# fit can be at most.
print(model.gap_certificate_)

# %%
# The same as a picture.
figure, axis = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
for name, column in errors.items():
    axis.plot(SHARES, column, "o-", label=name)
axis.set(xlabel="share of outliers", ylabel="error on clean rows of new tasks", yscale="log")
axis.legend()
plt.show()

# %%
# How to read it: the error axis is logarithmic. Without outliers the two lines meet: robustness
# costs nothing here. At two percent of outliers squares err fifteen times as much, at a fifth both
# are bad.
