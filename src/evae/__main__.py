"""``python -m evae`` is the command line."""

import sys

from evae.cli import main

if __name__ == "__main__":
    sys.exit(main())
