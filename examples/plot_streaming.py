"""
Several hospitals, one model
============================

Three hospitals have patients of their own, and no table of all rows may be made. For the squared
loss a fit needs sums over patients only. Each hospital computes the statistics of its patients; who
adds them up has the model of all patients, the same as from all rows.
"""

import matplotlib.pyplot as plt
import numpy as np

from sklearn_maml import MAMLRegressor, few_shot_curve, task_statistics
from sklearn_maml.datasets import make_linear_tasks

patients = make_linear_tasks(n_tasks=160, noise=1.0, random_state=0)
hospitals = [patients[:20], patients[20:50], patients[50:100]]
new_patients = patients[100:]

# %%
# What a hospital sends: numbers for each patient, no row among them. With first rows as support,
# or with all of them, the sum of parts is the fit to all rows, to rounding.

settings = MAMLRegressor(split="first", support=[1, 3, 5], random_state=0)
parts = [task_statistics(settings, own) for own in hospitals]
together = MAMLRegressor.from_statistics(
    sum(parts[1:], parts[0]), split="first", support=[1, 3, 5], random_state=0
)
whole = MAMLRegressor(split="first", support=[1, 3, 5], random_state=0)
whole.fit(patients[:100])
print(f"coefficients differ by {np.abs(together.coef_ - whole.coef_).max():.1e} at most")
print(f"above the smallest loss by at most {together.gap_certificate_.bound:.1e}")

# %%
# Patients keep arriving: `partial_fit` takes them in parts, and learns anew how patients differ.

stream = MAMLRegressor(split="first", support=[1, 3, 5], random_state=0)
curves = []
for own in hospitals:
    stream.partial_fit(own)
    curve = few_shot_curve(stream, new_patients, supports=[1, 2, 3, 5, 8], random_state=0)
    curves.append((stream.n_tasks_, curve))

figure, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
for n_patients, curve in curves:
    ax.plot(curve.supports, curve.mean, "o-", label=f"{n_patients} patients")
alone = few_shot_curve(
    MAMLRegressor(split="first", support=[1, 3, 5], random_state=0).fit(hospitals[0]),
    new_patients,
    supports=[1, 2, 3, 5, 8],
    random_state=0,
)
ax.plot(alone.supports, alone.mean, "k--", label="the first hospital alone, one fit")
ax.set(xlabel="rows of a new patient", ylabel="mean squared error of the others")
ax.legend(frameon=False)
plt.show()

# %%
# How to read it: each line is the stream after one more hospital. The dashed line lies on the first
# one: a stream so far is the fit to the tasks so far. More patients help however few or many rows a
# new one has shown, since how patients differ is known better.
