"""Many images: speed of decoding into the store and of opening it, and memory of training.

    python benchmarks/store.py [--images 160000] [--folder FOLDER]

Writes colour JPEG images of 64x64 pixels into Parquet files in --folder (default: a temporary one), opens them with
``open_store`` and trains a small linear model for one epoch on all of them, decoded and streamed, and on 1,000 of them,
each in its own process. The reference for decoding is Pillow alone, decoding from memory in processes that have
started; it is timed before and after, as the speed of a machine varies.
"""

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from joblib import Parallel, delayed
from PIL import Image

SIZE = 64
SHARD = 20_000

TRAINING = """
import resource, sys
from torch import nn
from evae import EVAE, train
from evae.runs import RunFolder

def small(image_shape):
    features = image_shape[0] * image_shape[1] * image_shape[2]
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(features, 8))
    decoder = nn.Sequential(nn.Linear(2, features), nn.Unflatten(1, image_shape))
    return EVAE(image_shape, 2, n=100, encoder=encoder, decoder=decoder)

out = train(sys.argv[1], sys.argv[2], small, epochs=1, accelerator="cpu")
print(RunFolder(out).metrics()[-1]["images_per_second"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""

OPENING = """
import sys, time
from evae import open_store
start = time.perf_counter()
store = open_store(sys.argv[1])
store.train.images
print(time.perf_counter() - start)
"""


def jpeg(number: int) -> bytes:
    """A smooth colour image, different for each number."""
    small = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write(count: int, folder: Path) -> None:
    """Parquet files of images in the layout of datasets on the hub."""
    folder.mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        for start in range(0, count, SHARD):
            contents = list(pool.map(jpeg, range(start, min(count, start + SHARD))))
            pq.write_table(pa.table({"image": contents}), folder / f"train-{start:08}.parquet")


def decode(contents: list[bytes]) -> None:
    """Decode with Pillow and discard the pixels."""
    for content in contents:
        np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def pillow(folder: Path) -> float:
    """Seconds that Pillow takes to decode all images, file by file."""
    seconds = 0.0
    with Parallel(n_jobs=os.cpu_count(), batch_size=1, max_nbytes=None) as workers:
        workers(delayed(decode)([]) for _ in range(64))  # until all have started
        for file in sorted(folder.glob("*.parquet")):
            contents = pq.read_table(file)["image"].to_pylist()
            chunks = [contents[start : start + 64] for start in range(0, len(contents), 64)]
            start = time.perf_counter()
            workers(delayed(decode)(chunk) for chunk in chunks)
            seconds += time.perf_counter() - start
    return seconds


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def child(program: str, *arguments: object) -> list[float]:
    """The numbers that a program prints."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return [float(n) for n in subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()]


def measure(count: int, root: Path) -> None:
    """Print the figures."""
    from evae import open_store

    os.environ["EVAE_CACHE"] = str(root / "cache")
    write(1000, root / "few")
    open_store(str(root / "few"))  # imports the modules that opening needs
    if not (root / "many").exists():
        write(count, root / "many")
    for _ in range(3):
        subprocess.run(["rm", "-rf", str(root / "cache")], check=True)
        before = pillow(root / "many")
        own = timed(lambda: open_store(str(root / "many")))
        alone = (before + pillow(root / "many")) / 2
        print(f"decoding: {count / own:.0f} images/s, Pillow alone {count / alone:.0f}: {alone / own:.3f}", flush=True)
    print(f"opening it again: {1000 * child(OPENING, root / 'many')[0]:.1f} ms")
    _, least = child(TRAINING, root / "few", root / "run-few")
    print(f"peak memory of training on 1,000 images: {least:.0f} MB")
    for name, data in (("decoded", root / "many"), ("streamed", f"hf-stream:{root / 'many'}")):
        speed, peak = child(TRAINING, data, root / f"run-{name}")
        print(f"on {count:,}, {name}: {peak - least:.0f} MB more, {speed:.0f} images/s")


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=160_000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(options.images, options.folder or Path(temporary))


if __name__ == "__main__":
    main()
