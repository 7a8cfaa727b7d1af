"""``python -m evae``: the command line."""

import sys

from evae.cli import main

sys.exit(main())
