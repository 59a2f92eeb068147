"""``python -m truepair``."""

import sys

from truepair.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
