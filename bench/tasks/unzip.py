"""Extract named members of an untrusted zip archive, with a size limit, all or none."""

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

# Exceptions of zipfile and its decompressors for unreadable archives, such as a name in another encoding or a huge LZMA dictionary.
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
    """Write each member of the archive (by its full name) to a file of a new `folder`; UserError, and no folder, on failure.

    Refuses missing members, links, members larger than `most` bytes or with a wrong checksum, and archives with a path out of their
    folder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".tmp", dir=folder.parent))
    try:
        with zipfile.ZipFile(archive) as opened:
            for name in opened.namelist():
                if name.startswith(("/", "\\")) or ":" in name or ".." in PurePosixPath(name.replace("\\", "/")).parts:
                    raise UserError(f"{archive} is unsafe: it contains the path {name!r}")
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
    info = archive.getinfo(member)
    if info.is_dir() or stat.S_ISLNK(info.external_attr >> 16):
        raise UserError(f"{archive.filename}: {member} is not a file")
    if info.file_size > most:  # zipfile reads no further than this size
        raise UserError(f"{archive.filename}: {member} is larger than the maximum of {most:,} bytes")
    with archive.open(info) as source, file.open("wb") as target:
        shutil.copyfileobj(source, target)
