"""Set up before scipy is imported."""

import os
from importlib.util import find_spec

# Without it scikit-learn 1.9 skips one of its estimator checks.
os.environ["SCIPY_ARRAY_API"] = "1"

# The peer in PyTorch is an optional extra; a skipped test would fail tests/versions.sh.
collect_ignore = [] if find_spec("torch") else ["test_torch_peer.py"]
