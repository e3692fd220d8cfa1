"""Settings that must be made before the first test module is read."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests run side by side: a thread each. More would wait actively for each other and take the cores from the rest.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
