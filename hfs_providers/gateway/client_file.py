"""The file of the clients that may use the gateway: their names, and the SHA-256 of their tokens. It contains no token.

A line has a client's name, `sha256:` and the digest in hexadecimal digits, `admin` if the client may also read /metrics
and the dashboard, and the day on which it was added; `#` begins a comment. A file that is half written, unreadable or
missing is reported as a problem.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date
from hashlib import sha256
from typing import NamedTuple

from hfs_providers.contract.environment import CLIENTS
from hfs_providers.contract.errors import nearest
from hfs_providers.contract.records import Problem
from hfs_providers.keys.key_files import PrivateFile, unquoted

ADD_ONE = "hfs-providers clients add NAME"
"""The command that adds a client."""

CLIENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""The allowed names of clients. Names are used in files, tables and metrics."""

TOKEN_PREFIX = "hfs_"  # noqa: S105  public
"""The beginning of all tokens, by which people and secret scanners recognise them."""

_HEADER = """\
# Clients of the gateway: name, digest of the token, `admin` or not, day. Change it with: hfs-providers clients
"""
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_MOST_SHOWN = 5


class ClientToken(NamedTuple):
    """A client that has a token.

    Args:
        digest: the SHA-256 of the token.
        admin: whether it may also read /metrics and the dashboard.
        added: the day in ISO format; empty if it is not known.
    """

    name: str
    digest: bytes
    admin: bool = False
    added: str = ""


class ClientList(NamedTuple):
    """The content of a file with clients.

    Args:
        dropped: the numbers of the lines that name no client, from 1.
        fault, remedy: why the file cannot be used, and how to fix it, as in `PrivateFile`.
    """

    tokens: Sequence[ClientToken]
    dropped: Sequence[int] = ()
    fault: str = ""
    remedy: str = ""

    @property
    def names(self) -> list[str]:
        """The names of the clients, each once."""
        return list(dict.fromkeys(token.name for token in self.tokens))

    def problems(self, path: str, exposed: bool) -> list[Problem]:
        """The problems of the file.

        Args:
            exposed: whether every user of the machine can read it.
        """
        found = []
        if self.fault:
            found.append(Problem(f"{CLIENTS}: {path} {self.fault}", self.remedy, "error"))
        elif not self.tokens:
            found.append(Problem(f"{CLIENTS}: {path} has no client, so nobody may use the gateway", f"Run: {ADD_ONE}"))
        if self.dropped:
            lines = ", ".join(map(str, self.dropped[:_MOST_SHOWN]))
            more = f" and {len(self.dropped) - _MOST_SHOWN} more" if len(self.dropped) > _MOST_SHOWN else ""
            which = f"line{'s' * (len(self.dropped) > 1)} {lines}{more}"
            remedy = f"Remove {which} from {path}, and run: {ADD_ONE}"
            found.append(Problem(f"{CLIENTS}: {path} names no client in {which}", remedy))
        if exposed:
            found.append(
                Problem(f"{CLIENTS}: {path} can be read by every user of this machine", f"Run: chmod 600 {path}")
            )
        return found


class ClientsPlace(NamedTuple):
    """The path of the file with the clients.

    Args:
        path: the absolute path; None if no file is used.
        named: whether the environment names it.
    """

    path: str | None
    named: bool

    @classmethod
    def of(cls, env: Mapping[str, str]) -> ClientsPlace:
        """The path for an environment: that in `HFS_CLIENTS_FILE`, none if it is `off`, or else the default."""
        said = unquoted(env.get(CLIENTS, ""))
        if said.lower() == "off":
            return cls(None, True)
        if said:
            return cls(os.path.abspath(os.path.expanduser(said)), True)
        import platformdirs

        try:
            usual = platformdirs.user_config_path("hfs-providers", appauthor=False) / "clients"
        except RuntimeError:
            usual = None
        # Older versions of platformdirs leave the `~` in the path if the user has no home.
        return cls(str(usual) if usual is not None and usual.is_absolute() else None, False)


def clients_of(file: PrivateFile) -> ClientList:
    """The clients in a file."""
    if file.data is None:
        remedy = f"Run: {ADD_ONE}" if file.fault == "does not exist" else file.remedy
        return ClientList((), (), file.fault, remedy)
    try:
        text = file.data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return ClientList((), (), "is not UTF-8 text", f"Remove it, and run: {ADD_ONE}")
    if not text.strip():
        # Another process may be writing it. The command writes a comment even to a file without clients.
        return ClientList((), (), "is empty", f"Run: {ADD_ONE}")
    tokens, dropped = [], []
    for place, line in enumerate(text.splitlines(), 1):
        fields = line.partition("#")[0].split()
        found = _token(fields)
        if found is not None:
            tokens.append(found)
        elif fields:
            dropped.append(place)
    if dropped and not tokens:
        return ClientList((), (), "names no client", f"Remove it, and run: {ADD_ONE}")
    return ClientList(tokens, dropped)


def _token(fields: Sequence[str]) -> ClientToken | None:
    if len(fields) < 2 or not CLIENT_NAME.fullmatch(fields[0]):
        return None
    digest = _DIGEST.fullmatch(fields[1])
    rest = list(fields[2:])
    admin = rest[:1] == ["admin"]
    added = rest[admin:]
    try:
        if digest is None or len(added) > 1 or any(date.fromisoformat(day) is None for day in added):
            return None
    except ValueError:
        return None
    return ClientToken(fields[0], bytes.fromhex(digest[1]), admin, "".join(added))


def written(tokens: Iterable[ClientToken]) -> bytes:
    """The content of a file with these clients."""
    lines = (
        " ".join(part for part in (name, f"sha256:{digest.hex()}", "admin" * admin, added) if part)
        for name, digest, admin, added in tokens
    )
    return "".join([_HEADER, *(f"{line}\n" for line in lines)]).encode()


def new_token() -> str:
    """A token: 256 random bits."""
    return TOKEN_PREFIX + secrets.token_hex(32)


def digest_of(token: bytes) -> bytes:
    """The stored digest of a token. A token has so many random bits that a slow hash would not protect it better."""
    return sha256(token).digest()


def unlisted(rules: Collection[str], names: Sequence[str], file: object) -> list[Problem]:
    """The problems of clients in the configuration file that have no token.

    Args:
        rules: the names of the clients in the configuration file.
        names: the names of the clients with a token.
        file: the path of the configuration file.
    """
    found = []
    for name in rules:
        if name not in names:
            near = nearest(name, names)
            remedy = f"Run: hfs-providers clients add {name}" if CLIENT_NAME.fullmatch(name) else "Correct the name"
            hint = f" Did you mean {near!r}?" if near else ""
            found.append(Problem(f"[clients] in {file} names {name!r}, which has no token.{hint}", remedy))
    return found
