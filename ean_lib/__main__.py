"""``python -m ean_lib`` is ``ean``."""

import sys

from ean_lib.cli import main

if __name__ == "__main__":
    sys.exit(main())
