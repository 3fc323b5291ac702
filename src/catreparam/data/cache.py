"""The cache folder: where it is, and how files get into it whole or not at all."""

import hashlib
import os
import shutil
from collections.abc import Iterator
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


def check_sha256(path: Path, expected: str) -> None:
    """Raises DamagedData unless the file has the expected SHA-256."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != expected:
        raise DamagedData(f"{path.name} has sha256 {digest}, expected {expected}: not used; try again")
