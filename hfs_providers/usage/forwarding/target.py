"""A database that usage is forwarded to: its table, and how a batch of rows gets in exactly once.

invariant: a row's primary key is the source (the file that it comes from) and its number there, so that a batch
           which is sent twice counts once.
invariant: nothing here waits for the database for longer than `ANSWER`, except the system's look-up of its name.
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from hfs_providers.contract.errors import ForwardingError
from hfs_providers.usage.forwarding.url import DatabaseUrl, mysql_tls
from hfs_providers.usage.row_writer import COLUMNS, NULLABLE

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Table
    from sqlalchemy.sql.dml import Insert

TABLE = "hfs_usage"

LENGTHS = {
    "source": 32,
    "provider": 64,
    "model": 255,
    "key_id": 128,
    "fingerprint": 16,
    "outcome": 64,
    "call_id": 32,
    "client": 64,
    "reason": 255,
}
"""Characters that a text column holds; what is longer is cut."""

TIMES = ("at", "cooled_until")
"""The columns that are instants."""

ADDED = tuple(COLUMNS)[tuple(COLUMNS).index("call_id") :]
"""The columns that tables of older versions do not have."""

CONNECT = 10
"""Seconds to connect."""

ANSWER = 30
"""Seconds for an answer."""

# While an ALTER waits for somebody who reads the table, all others wait for the ALTER: it gives up after 2 s.
_IMPATIENT = {
    "mysql": "SET SESSION lock_wait_timeout = 2",
    "mariadb": "SET SESSION lock_wait_timeout = 2",
    "postgresql": "SET LOCAL lock_timeout = '2s'",
}
_LATEST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
_GREATEST = 2**63 - 1
# A CHECK constraint that a user added: MySQL's and MariaDB's drivers call it an operational error.
_CHECKS = {3819, 4025}
_TIMEOUTS: dict[str, dict[str, Any]] = {
    "pymysql": {"connect_timeout": CONNECT, "read_timeout": ANSWER, "write_timeout": ANSWER},
    "mysqldb": {"connect_timeout": CONNECT, "read_timeout": ANSWER, "write_timeout": ANSWER},
    "psycopg": {"connect_timeout": CONNECT, "fallback_application_name": "hfs-providers"},
    "psycopg2": {"connect_timeout": CONNECT, "fallback_application_name": "hfs-providers"},
}


@cache
def table() -> Table:
    """The table, as it is created if it is missing."""
    from sqlalchemy import BigInteger, Column, DateTime, Double, Index, MetaData, String, Table
    from sqlalchemy.dialects.mysql import DATETIME

    def kind_of(name: str) -> Any:
        if name in TIMES:
            return DateTime(timezone=True).with_variant(DATETIME(fsp=6), "mysql", "mariadb")
        return {int: BigInteger(), float: Double(), str: String(LENGTHS.get(name))}[COLUMNS[name]]

    return Table(
        TABLE,
        MetaData(),
        Column("source", String(LENGTHS["source"]), primary_key=True),
        Column("id", BigInteger, primary_key=True, autoincrement=False),
        *(Column(name, kind_of(name), nullable=name in ADDED) for name in COLUMNS),
        Index(f"{TABLE}_at", "at"),
        # Model ids differ by case; a collation that ignores it would add them up.
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
        mariadb_charset="utf8mb4",
        mariadb_collate="utf8mb4_bin",
    )


def fitted(source: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A local row in the form that the table takes: texts cut, no NUL (PostgreSQL has none), bounded numbers."""
    return {"id": row["id"], "source": source, **{name: _fitted(name, row[name]) for name in COLUMNS}}


def _fitted(name: str, value: Any) -> Any:
    if value is None and name in NULLABLE:
        return None
    if COLUMNS[name] is str:
        return str(value).replace("\0", "\ufffd")[: LENGTHS[name]]
    number = _bounded(COLUMNS[name](value))
    return datetime.fromtimestamp(min(max(number, 0.0), _LATEST), UTC) if name in TIMES else number


def _bounded(number: float) -> float:
    return max(-_GREATEST, min(number, _GREATEST)) if -math.inf < number < math.inf else 0


class Target:
    """A connection to a database, made when it is first needed. For one thread, except `cut`."""

    def __init__(self, url: DatabaseUrl) -> None:
        self.url = url
        self._engine: Engine | None = None
        self._raw: Any = None
        self.product: str | None = None
        """The server's product, if it speaks MySQL's protocol; known after connecting."""
        self.lacking: frozenset[str] = frozenset()
        """Columns that the table lacks and that cannot be added, known after the first connection: they are not
        sent."""

    @property
    def connected(self) -> bool:
        return self._engine is not None

    def send(self, rows: Sequence[Mapping[str, Any]]) -> dict[int, str]:
        """Put rows, as `fitted` makes them, into the table; those that are there already do not change.

        Returns:
            The rows that the database refuses though it took others, by id, with its reason.

        Raises:
            Exception: the database cannot be reached, or takes no row at all; `words` says why.
        """
        engine = self._connect()
        refused: dict[int, str] = {}
        with self._bounded(), engine.connect() as connection:
            waiting = [rows]
            while waiting:
                part = waiting.pop()
                try:
                    with connection.begin():
                        self._insert(connection, part)
                except Exception as error:
                    # With a single row, the table may be at fault, unless it took another row.
                    if not _is_about_the_data(error) or len(rows) == 1:
                        raise
                    if len(part) == 1:
                        refused[part[0]["id"]] = self.words(error)
                        if len(refused) == len(rows):
                            raise
                    else:
                        middle = len(part) // 2
                        waiting += [part[middle:], part[:middle]]
        return refused

    def close(self) -> None:
        """Disconnect. The next `send` connects again."""
        engine, self._engine, self._raw = self._engine, None, None
        if engine is not None:
            engine.dispose()

    def cut(self) -> None:
        """Make a `send` that waits for an answer fail, if the driver has no timeouts of its own. For any thread."""
        with contextlib.suppress(Exception), socket.fromfd(self._raw.fileno(), socket.AF_INET, socket.SOCK_STREAM) as s:
            s.shutdown(socket.SHUT_RDWR)

    def words(self, error: BaseException) -> str:
        """An error in one line, with no password and without the statement and its rows."""
        if isinstance(error, ForwardingError):
            return error.reason
        cause = getattr(error, "orig", None) or error
        parts = [str(part) for part in cause.args if part]
        # The drivers of MySQL give a number and a text.
        text = f"{parts[1]} ({parts[0]})" if len(parts) == 2 and parts[0].isdigit() else "; ".join(parts)
        text = "; ".join(line.strip() for line in self.url.scrub(text).splitlines() if line.strip())
        return f"{type(cause).__name__}: {text[:300]}" if text else type(cause).__name__

    def _connect(self) -> Engine:
        if self._engine is not None:
            return self._engine
        from sqlalchemy import QueuePool, create_engine, event, make_url

        url = make_url(self.url.url.reveal())
        if url.get_dialect().is_async:
            raise ForwardingError(
                self.url.name,
                f"{url.drivername} is an asynchronous driver",
                "Write the URL without a driver: mysql://, postgresql:// or sqlite://",
            )
        arguments: dict[str, Any] = {
            key: value for key, value in _TIMEOUTS.get(url.get_driver_name(), {}).items() if key not in url.query
        }
        if self.url.driver == "pymysql":
            try:
                query, tls = mysql_tls(url.query, self.url.host)
            except (OSError, ValueError) as error:
                raise ForwardingError(
                    self.url.name,
                    f"the TLS options of its URL cannot be used: {self.words(error)}",
                    "docs/databases.md has the options",
                ) from None
            url = url.set(query=query)
            arguments |= tls
            if url.password:
                # PyMySQL sends text in Latin-1, which the server takes for another password.
                arguments["password"] = str(url.password).encode()
        # Serverless databases close idle connections: each is tested before it is used.
        engine = create_engine(
            url,
            poolclass=QueuePool,
            pool_size=1,
            max_overflow=0,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args=arguments,
        )

        @event.listens_for(engine, "do_connect")
        def _keep(dialect: Any, record: Any, args: Any, options: Any) -> Any:
            # Before SQLAlchemy's first queries, which may get no answer either.
            self._raw = dialect.connect(*args, **options)
            return self._raw

        try:
            with self._bounded(), engine.connect() as connection:
                self._make_table(connection)
                if connection.dialect.name in ("mysql", "mariadb"):
                    version = str(connection.exec_driver_sql("SELECT VERSION()").scalar()).lower()
                    names = (name for name in ("TiDB", "MariaDB") if name.lower() in version)
                    self.product = next(names, "MySQL")
        except BaseException:
            engine.dispose()
            raise
        self._engine = engine
        return engine

    def _make_table(self, connection: Connection) -> None:
        from sqlalchemy import inspect
        from sqlalchemy.exc import SQLAlchemyError

        if inspect(connection).has_table(TABLE):
            self._add_columns(connection)
            return
        try:
            table().create(connection)
            connection.commit()
        except SQLAlchemyError as error:
            connection.rollback()
            # Another process may have been faster.
            if not inspect(connection).has_table(TABLE):
                raise ForwardingError(
                    self.url.name,
                    f"there is no table {TABLE}, and it cannot be created: {self.words(error)}",
                    "Allow the user to create it, or create it by hand (the statement is in docs/databases.md)",
                ) from None

    def _add_columns(self, connection: Connection) -> None:
        """Give a table of an older version the columns that it lacks."""
        from sqlalchemy.exc import DBAPIError
        from sqlalchemy.schema import CreateColumn

        for name in _lacking(connection):
            column = CreateColumn(table().c[name]).compile(dialect=connection.dialect)
            try:
                if connection.dialect.name in _IMPATIENT:
                    connection.exec_driver_sql(_IMPATIENT[connection.dialect.name])
                connection.exec_driver_sql(f"ALTER TABLE {TABLE} ADD COLUMN {column}")
                connection.commit()
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise
                connection.rollback()
                # Unless another process was faster, the other columns would be refused as well.
                if name in _lacking(connection):
                    break
        self.lacking = frozenset(_lacking(connection))

    @contextlib.contextmanager
    def _bounded(self) -> Iterator[None]:
        # psycopg has no timeout for answers.
        timer = threading.Timer(CONNECT + ANSWER, self.cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _insert(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        from sqlalchemy import insert, select

        if self.lacking:
            rows = [{name: value for name, value in row.items() if name not in self.lacking} for row in rows]
        statement = _once(connection.dialect.name)
        if statement is not None:
            connection.execute(statement, rows)
            return
        at = table().c
        there = select(at.id).where(at.source == rows[0]["source"], at.id.between(rows[0]["id"], rows[-1]["id"]))
        known = set(connection.execute(there).scalars())
        if missing := [row for row in rows if row["id"] not in known]:
            connection.execute(insert(table()), missing)


def _lacking(connection: Connection) -> list[str]:
    from sqlalchemy import inspect

    there = {column["name"] for column in inspect(connection).get_columns(TABLE)}
    return [name for name in ADDED if name not in there]


@cache
def _once(dialect: str) -> Insert | None:
    """The statement that skips rows that are already there, or None if none is known for the dialect."""
    from sqlalchemy.dialects import mysql, postgresql, sqlite

    match dialect:
        case "mysql" | "mariadb":
            # Not INSERT IGNORE: it would also cut and convert what does not fit, silently.
            return mysql.insert(table()).on_duplicate_key_update(id=table().c.id)
        case "postgresql":
            return postgresql.insert(table()).on_conflict_do_nothing()
        case "sqlite":
            return sqlite.insert(table()).on_conflict_do_nothing()
    return None


def _is_about_the_data(error: Exception) -> bool:
    """Whether the database (or its driver) refused this row, and not just any row."""
    from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, StatementError

    if isinstance(error, DBAPIError):
        code = error.orig.args[0] if error.orig is not None and error.orig.args else None
        return not error.connection_invalidated and (isinstance(error, DataError | IntegrityError) or code in _CHECKS)
    return isinstance(error, StatementError | TypeError | ValueError | OverflowError)
