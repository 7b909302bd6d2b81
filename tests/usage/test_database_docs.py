"""docs/databases.md: its statements are those that make the table, and its URLs and TLS options mean what it says.

docs/usage.md: its table of columns has those that rows have.
"""

from __future__ import annotations

import re
import ssl
from pathlib import Path

import pytest
from sqlalchemy import make_url
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable

from hfs_providers.usage.forwarding import target
from hfs_providers.usage.forwarding.url import DatabaseUrl, mysql_tls
from hfs_providers.usage.row_writer import COLUMNS

TEXT = (Path(__file__).parents[2] / "docs" / "databases.md").read_text()
STATEMENTS = re.findall(r"```sql\n(.*?)```", TEXT, re.DOTALL)
URLS = [row[1] for row in re.findall(r"^\| ([^|]+) \| `(\w[^`]*://[^`]*)` \|$", TEXT, re.MULTILINE)]
TLS = re.findall(r"^\| (.*) \| (yes|no|if the server can) \| (yes|no) \| (yes|no) \|$", TEXT, re.MULTILINE)


def bare(statement: str) -> str:
    return re.sub(r"[\s;]+", "", statement)


@pytest.mark.parametrize(("place", "dialect"), [(0, mysql.dialect()), (1, postgresql.dialect())], ids=["mysql", "pg"])
def test_a_statement_makes_the_table_that_we_make(place: int, dialect: Dialect) -> None:
    (index,) = target.table().indexes
    made = f"{CreateTable(target.table()).compile(dialect=dialect)} {CreateIndex(index).compile(dialect=dialect)}"
    assert bare(STATEMENTS[place]) == bare(made)


def test_a_statement_adds_the_columns_that_older_tables_lack() -> None:
    columns = [CreateColumn(target.table().c[name]).compile(dialect=mysql.dialect()) for name in target.ADDED]
    assert bare(STATEMENTS[2]) == bare(f"ALTER TABLE hfs_usage {', '.join(f'ADD COLUMN {each}' for each in columns)}")


@pytest.mark.parametrize("url", URLS)
def test_a_url_is_one_that_we_and_sqlalchemy_read(url: str) -> None:
    address = DatabaseUrl(url)
    assert "PASSWORD" not in address.name
    assert make_url(address.url.reveal()).database in address.name


@pytest.mark.parametrize("row", TLS, ids=lambda row: row[0])
def test_tls_options_mean_what_is_said_of_them(row: tuple[str, ...]) -> None:
    options, encrypted, certificate, name = row
    host = "gateway01.eu.prod.aws.tidbcloud.com" if "tidbcloud" in options else "db.example"
    spellings = [option.partition("=") for option in re.findall(r"`([^`]+=[^`]+)`", options)]
    queries = [
        {key: ssl.get_default_verify_paths().openssl_cafile if value == "..." else value} for key, _, value in spellings
    ]
    if "none" in options:
        queries.append({})
    for query in queries:
        if not Path(query.get("ssl_ca", "/")).exists():
            continue  # a system whose authorities are elsewhere
        _, given = mysql_tls(query, host)
        if encrypted == "no":
            assert given == {"ssl_disabled": True}
        elif encrypted == "yes":
            assert (given["ssl"].verify_mode == ssl.CERT_REQUIRED, given["ssl"].check_hostname) == (
                certificate == "yes",
                name == "yes",
            )
        else:
            assert given == {}


def test_the_table_of_columns_names_them_all_in_order() -> None:
    page = (Path(__file__).parents[2] / "docs" / "usage.md").read_text()
    table = page.partition("## What is in a row")[2].partition("In the file,")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert re.findall(r"`(\w+)`", " ".join(cells)) == list(COLUMNS)


def test_there_is_something_to_compare() -> None:
    assert (len(STATEMENTS), len(URLS), len(TLS)) == (3, 6, 6)
