"""Set up before scipy is imported."""

import os

# Without it scikit-learn 1.9 skips one of its estimator checks.
os.environ["SCIPY_ARRAY_API"] = "1"
