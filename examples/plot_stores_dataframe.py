"""
Stores in a DataFrame
=====================

Two hundred stores, a table of days: price, promotion, weekday, units sold. Each store has its own
level and its own customers, who mind the price more or less. The table has a column that says which
store a row belongs to; everything else is scikit-learn as usual.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sklearn_maml import MAMLRegressor, adapt, few_shot_scorer
from sklearn_maml.displays import FewShotCurveDisplay, GapCertificateDisplay

rng = np.random.default_rng(0)


def open_store(name, n_days=40):
    """Some days of one store."""
    level, price_effect = rng.normal(100, 20), rng.normal(-20, 6)
    days = pd.DataFrame(
        {
            "store": name,
            "price": rng.uniform(1.0, 3.0, n_days).round(2),
            "promotion": rng.integers(0, 2, n_days),
            "weekday": rng.choice(["Mon", "Wed", "Fri", "Sat"], n_days),
        }
    )
    weekend = 15 * (days["weekday"] == "Sat")
    mean = level + price_effect * days["price"] + 10 * days["promotion"] + weekend
    return days.assign(units=mean + rng.normal(0, 5, n_days))


known = pd.concat([open_store(f"S{i:03d}") for i in range(160)], ignore_index=True)
new = pd.concat([open_store(f"N{i:02d}") for i in range(40)], ignore_index=True)
FEATURES = ["store", "price", "promotion", "weekday"]
print(known.head(), "\n")

# %%
# ``task_column`` names the column that holds the store. The features are made behind it, by any
# transformer; the store itself is no feature.

columns = ColumnTransformer(
    [
        ("numbers", StandardScaler(), ["price", "promotion"]),
        ("weekday", OneHotEncoder(drop="first", sparse_output=False), ["weekday"]),
    ]
)
model = MAMLRegressor(task_column="store", featurizer=columns, support=5, random_state=0)

# %%
# Judge as the model will be used: in stores that it has not seen, after five days. ``GroupKFold``
# keeps the days of a store together; the scorer adapts to five of them and predicts the others.

search = GridSearchCV(
    model,
    {"n_steps": [1, 3, 10], "alpha": [0.0, 0.01]},
    scoring=few_shot_scorer("neg_root_mean_squared_error", support=5),
    cv=GroupKFold(5),
).fit(known[FEATURES], known["units"], groups=known["store"])
print("chosen:", search.best_params_)
print(f"error after five days in a store left out: {-search.best_score_:.2f} units\n")

# %%
# Stores seen in training are predicted with their own parameters, others with the meta-parameters.

today = pd.DataFrame(
    {"store": ["S000", "S001", "opens today"], "price": 2.0, "promotion": 0, "weekday": "Mon"}
)
print(today.assign(units=search.predict(today).round(1)), "\n")

# %%
# A new store has been open for five days:

name = new["store"].iloc[0]
days = new[new["store"] == name]
store = adapt(search, days[FEATURES][:5], days["units"][:5])
later = days[FEATURES][5:]
for what, predicted in (("before", search.predict(later)), ("after", store.predict(later))):
    error = np.sqrt(np.mean((predicted - days["units"][5:]) ** 2))
    print(f"{name}: error {what} seeing five days {error:.1f} units")

# %%
# All new stores: how many days does it take? Beside it, one regression for all stores, and a
# regression on each new store's own days.

best = search.best_estimator_
pooled = make_pipeline(columns, Ridge(1e-3))
pooled.fit(known[FEATURES], known["units"])
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
FewShotCurveDisplay.from_estimator(
    best, new[FEATURES], new["units"], supports=[0, 1, 3, 5, 10, 20], pooled=pooled, ax=left
)
left.set(xlabel="days of the new store seen", ylabel="mean squared error on its other days")

# %%
# The certificate asks another question: would other meta-parameters have been better for the new
# stores, under the same rule?

certificate = best.certify(new[FEATURES], new["units"])
GapCertificateDisplay(certificate).plot(ax=right)
print(f"\nfor the new stores the meta-loss is at most {certificate.bound:.2f} above its minimum")

picture = Path("stores_dataframe.png")
figure.savefig(picture, dpi=100)
print(f"picture saved to {picture.resolve()}")
