"""``python -m evae.benchmark FOLDER`` computes the cell of a folder, for schedulers; ``cell.py`` has its exit codes."""

import sys
from pathlib import Path

from evae.benchmark.cell import CellFolder, run_cell

if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))  # for models of the user's own, as evae train has it
    sys.exit(run_cell(CellFolder(Path(sys.argv[1]))))
