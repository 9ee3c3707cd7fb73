"""For `pytest --nbval book/`: each chapter's kernel has one thread, unless OMP_NUM_THREADS says otherwise."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
