"""Files out of a zip archive that nobody vouches for: the named members alone, no larger than they may be, all or none."""

import lzma
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from bench.records.errors import UserError

_BLOCK = 1 << 20
# What zipfile and its decompressors raise at what they cannot read: a name is not UTF-8, an LZMA dictionary claims gigabytes.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    UnicodeDecodeError,
    EOFError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
)


def extract(archive: Path, members: Mapping[str, str], folder: Path, most: int) -> None:
    """Write each member of the archive (by its full name) to a file of a new `folder`; UserError, and no folder, where that fails.

    Refused are members that are missing, links or larger than `most` bytes, whatever the archive declares, a member with another
    checksum than the archive's, and any archive that holds a path out of its folder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".tmp", dir=folder.parent))
    try:
        with zipfile.ZipFile(archive) as opened:
            for name in opened.namelist():
                if name.startswith(("/", "\\")) or ":" in name or ".." in PurePosixPath(name.replace("\\", "/")).parts:
                    raise UserError(f"{archive} is no archive to trust: it holds the path {name!r}")
            for member, file in members.items():
                _write(opened, member, unfinished / file, most)
        unfinished.replace(folder)
    except KeyError as error:
        raise UserError(f"{archive} is incomplete: {error.args[0]}") from error
    except _DAMAGE as error:
        raise UserError(f"{archive} is truncated or damaged: {error}") from error
    except OSError as error:
        raise UserError(f"cannot extract {archive} to {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write(archive: zipfile.ZipFile, member: str, file: Path, most: int) -> None:
    info, size = archive.getinfo(member), 0
    if info.is_dir() or stat.S_ISLNK(info.external_attr >> 16):
        raise UserError(f"{archive.filename}: {member} is no file")
    with archive.open(info) as source, file.open("wb") as target:
        while block := source.read(_BLOCK):
            size += len(block)
            if size > most:
                raise UserError(f"{archive.filename}: {member} is larger than the {most:,} bytes it may have")
            target.write(block)
