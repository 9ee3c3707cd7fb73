"""``python -m ean_lib.cli`` is ``ean``; ``accelerate launch -m`` needs a module."""

import sys

from ean_lib.cli import main

if __name__ == "__main__":
    sys.exit(main())
