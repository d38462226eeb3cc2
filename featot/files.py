"""Writing a file so that it is either whole or untouched, and saying plainly what is in the way."""

from __future__ import annotations

import difflib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from featot.errors import FeatotError, UsageError

AnyPath = str | os.PathLike[str]


def write_text(path: AnyPath, text: str) -> None:
    """Writes ``text`` as UTF-8, whole or not at all; raises what `atomic_write` raises."""
    with atomic_write(path) as file:
        file.write(text.encode())


@contextmanager
def atomic_write(path: AnyPath) -> Iterator[BinaryIO]:
    """A binary file that takes the place of ``path`` at the end of the block, or never if the block fails.

    A link is refused: what it points to might be lost unseen. An existing file keeps its mode, a new one gets the
    usual mode.
    Raises `UsageError` where ``path`` cannot be a file, `FeatotError` where writing fails (a full disk).
    """
    target, mode = _destination(path)
    try:
        with _temporary_beside(target) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            file.close()
            if mode is not None:
                os.chmod(file.name, mode)
            os.replace(file.name, target)
    except OSError as error:
        raise FeatotError(f"cannot write {path}: {error.strerror or error}") from error


def check_writable(path: AnyPath) -> None:
    """Tries, before a long run, whether ``path`` could be written; whatever is there stays as it is.

    Raises `UsageError` for a missing or unwritable directory, a protected file, a directory, a link, a device.
    """
    target, _ = _destination(path)
    try:
        with _temporary_beside(target):
            pass
    except OSError as error:
        why = f"no file can be made in {target.parent} ({error.strerror})"
        raise UsageError(f"cannot write {path}: {why}; expected a writable directory") from error


def _destination(path: AnyPath) -> tuple[Path, int | None]:
    """Where writing ``path`` really writes, and the mode of the file there now, if any."""
    if os.path.islink(path):
        there = os.path.realpath(path)
        raise UsageError(f"cannot write {path}: it is a symbolic link to {there}; expected a file or a new name")
    target = Path(os.path.realpath(path))
    try:
        mode = os.lstat(target).st_mode
        if not stat.S_ISREG(mode):
            raise UsageError(f"cannot write {path}: {kind_of(mode)}; expected a file or a new name")
        os.close(os.open(target, os.O_WRONLY))  # changes nothing; fails where the file is protected
        return target, stat.S_IMODE(mode)
    except (FileNotFoundError, NotADirectoryError):
        if not os.path.isdir(target.parent):
            raise UsageError(f"cannot write {path}: {what_is_missing(target)} (directories are not made)") from None
        return target, None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; expected a writable place") from error


@contextmanager
def _temporary_beside(target: Path) -> Iterator[BinaryIO]:
    """A new hidden file beside ``target``, open for writing; removed at the end unless moved away."""
    temporary = target.with_name(f".{target.name[:50]}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def kind_of(mode: int) -> str:
    """What is there instead of a file, in words; ``mode``: of `os.stat`."""
    return "it is a directory" if stat.S_ISDIR(mode) else "it is not a regular file"


def what_is_missing(path: Path) -> str:
    """Names the first part of ``path`` that is missing, the directory that lacks it, and a near miss."""
    folder, name = path.parent, path.name
    while not os.path.isdir(folder):
        folder, name = folder.parent, folder.name
    what, fits = ("file", os.path.isfile) if folder == path.parent else ("directory", os.path.isdir)
    entries: dict[str, Path] = {}
    with suppress(OSError):  # a directory that may not be listed offers no hint
        entries = {entry.lower(): folder / entry for entry in os.listdir(folder) if fits(folder / entry)}
    close = difflib.get_close_matches(name.lower(), entries, n=1)
    hint = f"; did you mean {entries[close[0]]}?" if close else ""
    return f"there is no {what} {name!r} in {folder}{hint}"
