"""onnxruntime-web for pages in tests: a folder of its npm package."""

import os
import shutil
import subprocess
import tarfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from evae.exporting.runtime import PACKAGE, VERSION

needs_extra = pytest.mark.skipif(
    any(find_spec(package) is None for package in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs pip install 'evae[export]'",
)


def onnxruntime_web(folder: Path) -> Path:
    """The folder that EVAE_ONNXRUNTIME_WEB names, or one fetched by npm into ``folder``; skips where neither is there.

    The variable names a folder that --runtime takes, with the version that pages load from the public network.
    """
    if named := os.environ.get("EVAE_ONNXRUNTIME_WEB"):
        return Path(named)
    if shutil.which("npm") is None:
        pytest.skip("needs npm, or onnxruntime-web in the folder that EVAE_ONNXRUNTIME_WEB names")
    try:
        command = ["npm", "pack", "--silent", f"{PACKAGE}@{VERSION}"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
    except (subprocess.SubprocessError, OSError):
        pytest.skip(f"npm cannot fetch {PACKAGE} {VERSION}")
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder
