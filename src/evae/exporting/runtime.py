"""onnxruntime-web, which runs the networks in a browser: three files of one version, each with its digest."""

from dataclasses import dataclass
from pathlib import Path

from evae.errors import ConfigError
from evae.files import write_atomically
from evae.reporting import pages

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
_CDN = f"https://cdn.jsdelivr.net/npm/{PACKAGE}@{VERSION}/dist/"
_FOLDER = "runtime"
_PLACES = (".", "dist", f"node_modules/{PACKAGE}/dist", f"{PACKAGE}/dist", "package/dist")  # in --runtime

# Of the npm package of this version; tests compare them with it.
SCRIPT, MODULE, BINARY = "ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"
DIGESTS = {
    SCRIPT: "sha384-Bw6URI+Gvoadw0do7/QrSHUC9D1vCYYK5OSqChFyhyV5mzPL4oe2rOAFljAnS8Sq",
    MODULE: "sha384-XcXA/MtAf0WpB8e023xQH9CM7RIjiugakT7x99DIwpFf7k56BIFFcAPerIF7FDad",
    BINARY: "sha384-vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM",
}
_BYTES = 14_314_474  # of the three


@dataclass(frozen=True)
class Runtime:
    """Where a page gets onnxruntime-web from.

    Attributes:
        base: the address that the names of its files follow, relative to the page for a local copy.
        digests: of each file by name, as browsers check them (Subresource Integrity).
        size: bytes of all of them, before compression.
        files: the content of a local copy's files by name; empty for those of the public network.
    """

    base: str
    digests: dict[str, str]
    size: int
    files: dict[str, bytes]

    @property
    def source(self) -> str:
        """What a page's security policy allows: the page's own server, or the address of the public network."""
        return "'self'" if self.files else self.base

    def write(self, folder: Path) -> None:
        """Write a local copy beside the page."""
        for name, content in self.files.items():
            write_atomically(folder / self.base / name, content)


def runtime_of(folder: Path | None) -> Runtime:
    """The pinned version on a public network, or a copy of the files in ``folder``.

    Args:
        folder: of the npm package onnxruntime-web, of any version, or one that holds it; None for the public network.

    Raises:
        ConfigError: the files are not there.
    """
    if folder is None:
        return Runtime(_CDN, DIGESTS, _BYTES, {})
    for place in _PLACES:
        paths = {name: folder / place / name for name in DIGESTS}
        if all(path.is_file() for path in paths.values()):
            files = {name: path.read_bytes() for name, path in paths.items()}
            digests = {name: pages.digest_of(content) for name, content in files.items()}
            return Runtime(f"{_FOLDER}/", digests, sum(map(len, files.values())), files)
    raise ConfigError(
        f"--runtime {folder} has no {SCRIPT}, {MODULE} and {BINARY}; npm pack {PACKAGE} fetches the package that does"
    )
