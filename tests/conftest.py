"""Set up before scipy is imported."""

import os
from importlib.util import find_spec

# Without it scikit-learn 1.9 skips one of its estimator checks.
os.environ["SCIPY_ARRAY_API"] = "1"

# Tests of what is an optional extra; a skipped test would fail tests/versions.sh.
OPTIONAL = {
    "torch": "test_torch_peer.py",
    "skops": "test_skops.py",
    "distributed": "test_distributed.py",
}
collect_ignore = [test for package, test in OPTIONAL.items() if not find_spec(package)]
