"""The URL of a database that usage is forwarded to: its name without a secret, its driver, and its TLS options.

SQLAlchemy is not imported here: the URL is read when the program starts, the database is asked when rows have come.
"""

from __future__ import annotations

import importlib.util
import os
import re
import ssl
from collections.abc import Mapping
from importlib import metadata
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from hfs_providers.contract.errors import ForwardingError, MissingDriverError
from hfs_providers.contract.secret import Secret

# As SQLAlchemy reads a URL, which itself takes an `@` in the password for its end and shows the rest.
_URL = re.compile(
    r"(?P<backend>[a-z]\w*)(?:\+(?P<driver>\w+))?://"
    r"(?:(?P<user>[^:/@?]*)(?::(?P<password>[^@]*))?@)?"
    r"(?P<place>(?P<host>\[[^\]@?]*\]|[^\[:/@?]*)(?::\d*)?(?:/[^@?]*)?)"
    r"(?:\?(?P<query>.*))?",
    re.IGNORECASE | re.DOTALL,
)
_BACKENDS = {"postgres": "postgresql", "tidb": "mysql", "mariadb": "mysql"}
# The driver if the URL names none, and what installs it.
_BUILT_IN = ("mssql", "mysql", "oracle", "postgresql", "sqlite")
_DRIVERS = {"mysql": "pymysql", "postgresql": "psycopg"}
_EXTRAS = {"pymysql": ("PyMySQL", "mysql"), "psycopg": ("psycopg", "postgres")}
_PRODUCTS = {
    "mysql": "MySQL",
    "mariadb": "MariaDB",
    "postgres": "PostgreSQL",
    "postgresql": "PostgreSQL",
    "sqlite": "SQLite",
}
_HIDDEN = re.compile(r"(?i)passw(or)?d|secret|token")

_MODES = ("DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY")


class DatabaseUrl:
    """A database, by its URL. Its `str` and `repr` are its name.

    Args:
        url: as SQLAlchemy reads it; `mysql://`, `mariadb://` and `tidb://` mean PyMySQL, `postgres://` and
            `postgresql://` psycopg.

    Raises:
        ForwardingError: the URL cannot be read.
        MissingDriverError: SQLAlchemy or the driver is not installed.
    """

    def __init__(self, url: str) -> None:
        found = _URL.fullmatch(url.strip())
        if found is None:
            raise ForwardingError(
                "a database",
                "its URL cannot be read",
                "Write it as dialect://user:password@host:port/database, with @ : / ? in a password as %40 %3A %2F %3F",
            )
        given = found["backend"].lower()
        self.backend = _BACKENDS.get(given, given)
        self.driver = (found["driver"] or _DRIVERS.get(self.backend, "")).lower()
        user = f"{found['user']}@" if found["user"] else ""
        self.name = f"{self.backend}://{user}{found['place']}"
        """The name that says where rows go; it holds neither password nor options."""
        self.host = found["host"].lower()
        tidb = given == "tidb" or self.host.endswith(".tidbcloud.com") or f"{found['place']}/".find(":4000/") > 0
        self.product = "TiDB" if tidb and self.backend == "mysql" else _PRODUCTS.get(given, given)
        """The product, as far as the URL names it."""
        scheme = f"{self.backend}+{self.driver}" if self.driver else self.backend
        self.url = Secret(f"{scheme}{url.strip()[url.strip().index('://') :]}")
        """With the driver, for SQLAlchemy."""
        secrets = {value for key, value in parse_qsl(found["query"] or "") if _HIDDEN.search(key)}
        if found["password"]:
            secrets |= {found["password"], unquote_plus(found["password"])}
        self._secrets = [Secret(value) for value in sorted(secrets, key=len, reverse=True) if value]
        self._check_driver()

    def __repr__(self) -> str:
        return self.name

    def scrub(self, text: str) -> str:
        """`text` without the passwords of the URL."""
        for secret in self._secrets:
            text = text.replace(secret.reveal(), "[password]")
        return text

    def _check_driver(self) -> None:
        distribution, extra = _EXTRAS.get(self.driver, ("SQLAlchemy", "mysql"))
        for module in ("sqlalchemy", self.driver if self.driver in _EXTRAS else "sqlalchemy"):
            if importlib.util.find_spec(module) is None:
                missing = "SQLAlchemy" if module == "sqlalchemy" else distribution
                raise MissingDriverError(
                    self.name,
                    f"the package {missing!r} is not installed",
                    f"Run: pip install 'hfs-providers[{extra}]'",
                )
        if self.backend not in _BUILT_IN:
            # Known without importing SQLAlchemy, which takes a third of a second.
            offered = {point.name.partition(".")[0] for point in metadata.entry_points(group="sqlalchemy.dialects")}
            if self.backend not in offered:
                raise ForwardingError(
                    self.name,
                    f"SQLAlchemy knows no dialect {self.backend!r}",
                    "Install the package that provides it, or correct the URL",
                )


def mysql_tls(query: Mapping[str, Any], host: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Turn the TLS options of a URL into arguments of PyMySQL.

    SQLAlchemy and PyMySQL between them drop `ssl_ca` if `ssl_verify_cert` is given as well, take
    `ssl_verify_cert=false` for true, and check no host name without `ssl_ca`; so the context is made here.

    Args:
        query: the options of the URL.
        host: of the URL; hosts of TiDB Cloud require TLS: it is on by default for them.

    Returns:
        The options that have nothing to do with TLS, and keyword arguments for PyMySQL.

    Raises:
        ValueError, OSError: an option that is not understood, a file that cannot be read.
    """
    rest: dict[str, Any] = {}
    tls: dict[str, str] = {}
    for key, value in query.items():
        if key == "ssl" or key.startswith("ssl_"):
            tls[key] = str(value)
        else:
            rest[key] = value
    mode = _mode(tls, host)
    if mode == "DISABLED":
        return rest, {"ssl_disabled": True}
    if mode == "PREFERRED":
        return rest, {}
    for key in ("ssl_ca", "ssl_capath", "ssl_cert", "ssl_key"):
        if key in tls and not os.path.exists(tls[key]):
            raise ValueError(f"{key}: there is no {tls[key]}")
    context = ssl.create_default_context(cafile=tls.get("ssl_ca"), capath=tls.get("ssl_capath"))
    # Private CAs often lack extensions that OpenSSL's strict mode (the default since Python 3.13) requires.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.check_hostname = mode == "VERIFY_IDENTITY"
    context.verify_mode = ssl.CERT_NONE if mode == "REQUIRED" else ssl.CERT_REQUIRED
    if "ssl_cert" in tls:
        context.load_cert_chain(tls["ssl_cert"], tls.get("ssl_key"), tls.get("ssl_key_password"))
    if "ssl_cipher" in tls:
        context.set_ciphers(tls["ssl_cipher"])
    return rest, {"ssl": context}


def _mode(tls: Mapping[str, str], host: str) -> str:
    """One of MySQL's five modes."""
    if "ssl_mode" in tls:
        mode = tls["ssl_mode"].upper()
        if mode not in _MODES:
            raise ValueError(f"ssl_mode must be one of {', '.join(_MODES)}")
        return mode
    if _is(tls, "ssl_disabled") or _is(tls, "ssl") is False:
        return "DISABLED"
    return _implied_mode(tls, host)


def _implied_mode(tls: Mapping[str, str], host: str) -> str:
    """The mode that options other than `ssl_mode` ask for."""
    identity = _is(tls, "ssl_verify_identity", "ssl_check_hostname")
    certificate = _is(tls, "ssl_verify_cert")
    if identity:
        return "VERIFY_IDENTITY"
    if certificate is False:
        return "REQUIRED"
    if certificate or identity is False:
        return "VERIFY_CA"
    if tls or host.endswith(".tidbcloud.com"):
        return "VERIFY_IDENTITY"
    return "PREFERRED"


def _is(tls: Mapping[str, str], *keys: str) -> bool | None:
    for key in keys:
        if key in tls:
            word = tls[key].lower()
            if word in ("true", "1", "yes", "on"):
                return True
            if word in ("false", "0", "no", "off"):
                return False
            raise ValueError(f"{key} must be true or false")
    return None
