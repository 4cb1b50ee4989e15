"""Files of a folder that together stay below a bound: those that were used longest ago go first.

Many processes may use one folder. How many bytes it holds stands in a file of its own, which a process changes under a
lock before it writes, so that the folder is looked through only when the bound is met. Files whose names are not ours
are neither counted nor removed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ..common.files import write_whole
from ..errors import Ego2ExoError

_NAME = re.compile(r"(\.)?[0-9a-f]{32}\.(clip|frames)(?(1)\.[0-9-]+\.part)")
_SIZE = ".size"
# Room for the next files once the folder has been looked through.
_KEPT = 0.9
# A part of a file that is so old belongs to a process that was killed.
_STALE_S = 3600
# Checkpoints and answers may lie on the same disk: its last bytes are left to them.
_SPARE_BYTES, _SPARE_SHARE = 1_000_000_000, 0.05


class BoundedFolder:
    """A folder of files that can all be made anew.

    Args:
        folder: made where it is not there.
        most_bytes: that all files together may take. Files that other processes write at that very moment may come on
            top while the folder is looked through.
    """

    def __init__(self, folder: str | Path, most_bytes: int) -> None:
        self.folder, self.most_bytes = Path(os.path.abspath(folder)), most_bytes

    def path(self, key: str, kind: str) -> Path:
        """Where a file lies, or would.

        Args:
            key: 32 hexadecimal digits.
            kind: `clip` or `frames`.
        """
        return self.folder / key[:2] / f"{key}.{kind}"

    def used(self, path: Path) -> None:
        """Note that a file was of use just now."""
        with contextlib.suppress(OSError):
            os.utime(path)

    def put(self, path: Path, content: bytes) -> int:
        """Write a file, after others have gone where there is no room for it.

        Returns:
            How many files had to go.

        Raises:
            Ego2ExoError: it is larger than the bound, or the disk is full or may not be written.
        """
        if len(content) > self.most_bytes:
            raise Ego2ExoError(
                f"it has {len(content)} bytes", f"{self.most_bytes} bytes in all of {self.folder}", "raise the bound"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._require_spare(len(content))
            gone = self._reserve(len(content))
        except OSError as error:
            raise Ego2ExoError(
                f"{self.folder} cannot be written: {error.strerror or error}", "a folder of yours", "give another place"
            ) from error
        write_whole(path, content, sync=False)
        return gone

    def sizes(self) -> dict[Path, tuple[int, int]]:
        """Each file's time of last use in ns, and its bytes; parts that a killed process left are removed."""
        found: dict[Path, tuple[int, int]] = {}
        for folder in _below(self.folder):
            for entry in _below(Path(folder.path)) if len(folder.name) == 2 and folder.is_dir() else ():
                if not _NAME.fullmatch(entry.name):
                    continue
                with contextlib.suppress(OSError):  # another process may have removed it just now
                    stat = entry.stat(follow_symlinks=False)
                    if entry.name.startswith(".") and time.time() - stat.st_mtime > _STALE_S:
                        os.unlink(entry.path)
                    else:
                        found[Path(entry.path)] = (stat.st_mtime_ns, stat.st_size)
        return found

    def _require_spare(self, size: int) -> None:
        disk = shutil.disk_usage(self.folder)
        if disk.free - size < min(_SPARE_BYTES, _SPARE_SHARE * disk.total):
            raise Ego2ExoError(
                f"the disk of {self.folder} is nearly full: {disk.free} bytes are free", "", "give another place"
            )

    def _reserve(self, size: int) -> int:
        gone = 0
        with self._counted() as file:
            text = file.read().strip()
            held = int(text) if text.isdecimal() else None
            if held is None or held + size > self.most_bytes:
                held, gone = self._clear(self.most_bytes - size)
            file.seek(0)
            file.truncate()
            file.write(str(held + size))
        return gone

    def _clear(self, room: int) -> tuple[int, int]:
        """Bytes that are left, and how many files had to go; where `room` does not hold them all, nine tenths stay."""
        files = self.sizes()
        held, gone = sum(size for _, size in files.values()), 0
        if held <= room:
            return held, 0
        for path in sorted((path for path in files if not path.name.startswith(".")), key=lambda path: files[path]):
            if held <= min(room, _KEPT * self.most_bytes):
                break
            with contextlib.suppress(OSError):
                path.unlink()
                held, gone = held - files[path][1], gone + 1
        return held, gone

    @contextlib.contextmanager
    def _counted(self) -> Iterator[IO[str]]:
        """The file that says how many bytes there are; one process at a time."""
        descriptor = os.open(self.folder / _SIZE, os.O_RDWR | os.O_CREAT, 0o666)
        with os.fdopen(descriptor, "r+") as file:
            # Without locks (Windows, some network disks) the number may drift; it is set right at each look through.
            with contextlib.suppress(ImportError, OSError):
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
            yield file


def _below(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []
