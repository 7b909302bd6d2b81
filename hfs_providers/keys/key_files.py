"""Files that hold keys, and lists of keys.

A line has a key, or a key, a comma and the account whose limits it shares; `#` begins a comment. A file may be half
written, unreadable or not a file at all: messages say what is wrong without showing a key.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from hfs_providers.contract.secret import Secret

MOST_BYTES = 16 * 1024 * 1024
"""The largest size of a file with keys: a larger one is a mistake."""

EMPTY = "holds no key"
"""The fault of a file without a key."""

TWICE = "repeats an earlier one"
"""The fault of a key that was listed before."""

_LONGEST_KEY = 4096
_QUOTES = "'\"`\u2018\u2019\u201c\u201d"
_COMMENT = re.compile(r"(?:^|\s)#")
_PLACEHOLDER = re.compile(
    r"""
    (?: your | my | insert | enter | put | add | replace | paste | change ) [\s_\-]? .* (?: key | token | here | me )
    | (?: gsk | csk | sk | sk-or | sk-or-v1 | aiza )? [-_]? x{3,}
    | (?: api | secret )? [-_]? key (?: [-_]? (?: here | goes[-_]here | \d{0,3} ) )?
    | .* (?: \.{3} | \u2026 ) .*
    | < .* > | \$\{? .* | \.{2,} | \*{2,} | changeme | placeholder | example | todo | none | null | test
    """,
    re.IGNORECASE | re.VERBOSE,
)


def unquoted(text: str) -> str:
    """`text` without blanks and quotes around it."""
    return text.strip().strip(_QUOTES).strip()


def key_fault(text: str) -> str | None:
    """Why a text is not a key; None if it may be one."""
    if not text:
        return "is blank"
    if len(text) > _LONGEST_KEY:
        return f"has more than {_LONGEST_KEY} characters"
    if _PLACEHOLDER.fullmatch(text):
        return "is a placeholder"
    if not text.isascii() or not text.isprintable() or " " in text:
        # Such a value is not allowed in an HTTP header: sending it would be a local error.
        return "contains blanks, line breaks or other characters that no key has"
    return None


@dataclass(frozen=True, slots=True)
class PrivateFile:
    """A file as it was read. Two equal ones have the same content, or the same fault.

    Args:
        data: the content, or None if it cannot be used.
        fault: why, as a predicate of its path (`is a directory`).
        remedy: what fixes that.
        exposed: whether every user of the machine can read it.
    """

    data: bytes | None = field(default=None, repr=False)
    fault: str = ""
    remedy: str = ""
    exposed: bool = False


def read_private_file(path: str) -> PrivateFile:
    """Read a file that only its owner should change. Nothing is raised."""
    try:
        kind = os.stat(path).st_mode
        if not stat.S_ISREG(kind):
            fault = "is a directory" if stat.S_ISDIR(kind) else "is a pipe or a device, not a file"
            return PrivateFile(None, fault, "Name a regular file")
        # Meanwhile it may have become a pipe, on which a plain `open` would hang.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            about = os.fstat(file.fileno())
            mode = about.st_mode if os.name == "posix" else 0
            # Some files report no size.
            data = (file.read(MOST_BYTES + 1) or b"") if about.st_size <= MOST_BYTES else None
    except FileNotFoundError:
        return PrivateFile(None, "does not exist", "Create it")
    except (OSError, ValueError) as error:
        # ValueError: a name that no file can have.
        why = (error.strerror if isinstance(error, OSError) else None) or "its name is not valid"
        return PrivateFile(None, f"cannot be read: {why}", "Make it readable for this program")
    if mode & stat.S_IWOTH:
        return PrivateFile(None, "can be changed by every user of this machine", f"Run: chmod 600 {path}")
    if data is None or len(data) > MOST_BYTES:
        return PrivateFile(None, f"is larger than {MOST_BYTES // 1024**2} MB", "Name a file with one key per line")
    return PrivateFile(data, exposed=bool(mode & stat.S_IROTH))


def replace_private_file(path: str, data: bytes) -> None:
    """Create or replace a file in one atomic step, because a process may read it at any moment. Only its owner can read
    it (0600).

    Raises:
        OSError: it cannot be written. The old file stays.
    """
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    # Its mode is 0600.
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".new-")
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


class ListedKey(NamedTuple):
    """A key, the account that is named with it, and its place in the list, from 1."""

    secret: Secret
    account: str | None
    place: int


class KeyList(NamedTuple):
    """The result of reading a list of keys.

    Args:
        keys: each once.
        dropped: the places of entries that are not keys, by what is wrong with them.
        fault, remedy: why there is no key in it, as in `PrivateFile`.
    """

    keys: Sequence[ListedKey]
    dropped: Mapping[str, Sequence[int]]
    fault: str = ""
    remedy: str = ""


def keys_of_file(file: PrivateFile) -> KeyList:
    """The keys in a file: one per line."""
    if file.data is None:
        return KeyList((), {}, file.fault, file.remedy)
    try:
        text = file.data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return KeyList((), {}, "is not UTF-8 text", "Save it as UTF-8, with one key per line")
    lines = (_COMMENT.split(line, 1)[0] if "#" in line else line for line in re.split(r"\r\n?|\n", text))
    found = _listed((place, *line.partition(",")[::2]) for place, line in enumerate(lines, 1) if line.strip())
    return found if found.keys else found._replace(fault=EMPTY, remedy="Write one key per line into it")


def keys_of_text(text: str) -> KeyList:
    """The keys in a text, separated by commas."""
    return _listed((place, part, "") for place, part in enumerate(text.split(","), 1) if part.strip())


def _listed(entries: Iterable[tuple[int, str, str]]) -> KeyList:
    keys: dict[str, ListedKey] = {}
    dropped: dict[str, list[int]] = {}
    for place, said, account in entries:
        key, account = unquoted(said), unquoted(account)
        fault = key_fault(key) or _account_fault(key, account)
        if fault is None and key in keys:
            fault = TWICE
        if fault is None:
            keys[key] = ListedKey(Secret(key), account or None, place)
        else:
            dropped.setdefault(fault, []).append(place)
    return KeyList(tuple(keys.values()), dropped)


def _account_fault(key: str, account: str) -> str | None:
    # The name of an account is shown and stored: it must not be a key that was put behind a comma.
    if "," in account or (account and account[:4] == key[:4]):
        return "has a key where an account belongs"
    return None if account.isprintable() else "names an account with characters that cannot be printed"
