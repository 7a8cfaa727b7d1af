"""Whether faster arithmetic ends where float32 does: the hold-out loss of runs of three seeds each on mnist5k.

    python benchmarks/precision.py [--epochs 3] [--accelerator auto] [--without bf16-mixed]

Other arithmetic means other rounding, and compiled code other random numbers: runs are expected to differ as runs of
different seeds do. The table has the mean over seeds and their standard deviation.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from evae import train
from evae.runs import RunFolder

VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {"compile": "off"},
    "compiled": {"compile": "on"},
    "bf16-mixed": {"compile": "off", "precision": "bf16-mixed"},
    "tf32": {"compile": "off", "precision": "tf32"},
}


def main() -> None:
    """Print the table, line by line as runs end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--without", nargs="*", default=[], choices=list(VARIANTS))
    options = parser.parse_args()
    print("| | hold-out loss, mean of three seeds | standard deviation | each |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name, settings in VARIANTS.items():
            if name in options.without:
                continue
            losses = []
            for seed in range(3):
                out = Path(folder) / f"{name}-{seed}"
                train("mnist5k", out, epochs=options.epochs, seed=seed, accelerator=options.accelerator, **settings)
                losses.append(RunFolder(out).epochs()[-1]["holdout_loss"])
            each = ", ".join(f"{loss:.1f}" for loss in losses)
            print(f"| {name} | {statistics.mean(losses):.1f} | {statistics.stdev(losses):.1f} | {each} |", flush=True)


if __name__ == "__main__":
    main()
