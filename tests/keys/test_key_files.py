"""Files with keys as they are read: good ones, and what else may stand where one is expected."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

import pytest

from hfs_providers.keys.key_files import (
    MOST_BYTES,
    KeyList,
    key_fault,
    keys_of_file,
    keys_of_text,
    read_private_file,
    replace_private_file,
)

ONE, TWO = "gsk_mArKeD0001f7a9c3e1b5d8", "gsk_mArKeD0002f7a9c3e1b5d8"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def write(path: Path, content: str | bytes, mode: int = 0o600) -> None:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)


def read(path: Path) -> KeyList:
    return keys_of_file(read_private_file(str(path)))


def found(listed: KeyList) -> list[tuple[str, str | None]]:
    return [(key.secret.reveal(), key.account) for key in listed.keys]


@pytest.mark.parametrize(
    "content",
    [
        f"{ONE}\n{TWO},team b\n",
        f"{ONE}\n{TWO},team b",
        f"\ufeff{ONE}\r\n{TWO} , team b\r\n",
        f"{ONE}\r{TWO},team b\r",
        f"# ours\n\n  {ONE}   # the first\n\t'{TWO}',\"team b\"\n#{ONE}x\n",
    ],
    ids=["plain", "no newline", "BOM and CRLF", "CR", "comments, blanks and quotes"],
)
def test_one_key_a_line_with_its_account(path: Path, content: str) -> None:
    write(path, content)
    listed = read(path)
    assert found(listed) == [(ONE, None), (TWO, "team b")]
    assert (listed.dropped, listed.fault) == ({}, "")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("gsk_mArKeD with blanks", "contains blanks"),
        ("gsk_mArKeDé", "contains blanks"),
        ("gsk_mArKeD\x07", "contains blanks"),
        ("your_api_key", "is a placeholder"),
        (",team", "is blank"),
        ("k" * 5000, "has more than 4096 characters"),
        (ONE, "repeats an earlier one"),
        (f"{TWO},{ONE}", "has a key where an account belongs"),
        (f"{TWO},a,b", "has a key where an account belongs"),
        (f"{TWO},a\x07", "names an account with characters"),
    ],
)
def test_a_line_without_a_key_is_dropped_alone(path: Path, line: str, fault: str) -> None:
    write(path, f"{ONE}\n# note\n{line}\n")
    listed = read(path)
    assert found(listed) == [(ONE, None)]
    ((said, lines),) = listed.dropped.items()
    assert said.startswith(fault)
    assert lines == [3]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "holds no key"),
        (b"# later\n\n", "holds no key"),
        (b"todo\n", "holds no key"),
        (ONE.encode("utf-16"), "is not UTF-8 text"),
        (f"# clé\n{ONE}\n".encode("latin-1"), "is not UTF-8 text"),
        (ONE.encode() + b"\n\0\0", "is not UTF-8 text"),
        (secrets.token_bytes(5000), "is not UTF-8 text"),
        (b"k" * (MOST_BYTES + 1), "is larger than 16 MB"),
    ],
    ids=["empty", "comments", "placeholder", "UTF-16", "Latin-1", "NUL", "garbage", "huge"],
)
def test_content_that_is_no_list_of_keys(path: Path, content: bytes, fault: str) -> None:
    write(path, content)
    listed = read(path)
    assert (list(listed.keys), listed.fault) == ([], fault)
    assert listed.remedy


def test_a_file_may_be_as_large_as_the_bound(path: Path) -> None:
    content = b"#" * MOST_BYTES
    write(path, content)
    assert read_private_file(str(path)).data == content


def test_a_key_may_be_as_long_as_the_bound() -> None:
    assert (key_fault("k" * 4096), key_fault("k" * 4097)) == (None, "has more than 4096 characters")


def test_a_file_that_is_written_is_its_owner_s_and_so_is_its_folder(path: Path) -> None:
    inside = path / "more" / "keys"
    replace_private_file(str(inside), ONE.encode())
    assert inside.read_text() == ONE
    assert [stat.S_IMODE(each.stat().st_mode) for each in (inside, inside.parent)] == [0o600, 0o700]


def test_a_file_that_cannot_be_replaced_says_so_and_leaves_nothing(path: Path) -> None:
    folder = path / "keys"
    folder.mkdir(parents=True)
    with pytest.raises(OSError, match="keys"):
        replace_private_file(str(folder), ONE.encode())
    assert [each.name for each in path.iterdir()] == ["keys"]


def test_what_is_no_file(path: Path) -> None:
    assert read(path).fault == "does not exist"
    assert read(path / "\0").fault == "cannot be read: its name is not valid"
    assert read(path.parent).fault == "is a directory"
    os.mkfifo(path)
    assert read(path).fault == read(Path("/dev/zero")).fault == "is a pipe or a device, not a file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_must_not_be_read(path: Path) -> None:
    write(path, ONE, 0o000)
    assert read(path).fault == "cannot be read: Permission denied"


def test_a_file_that_everybody_can_change_is_refused_and_one_that_everybody_can_read_is_noted(path: Path) -> None:
    write(path, ONE, 0o622)
    assert read(path).fault == "can be changed by every user of this machine"
    write(path, ONE, 0o604)
    assert found(read(path)) == [(ONE, None)]
    assert read_private_file(str(path)).exposed


def test_a_file_is_the_same_as_long_as_nothing_about_it_changes(path: Path) -> None:
    write(path, ONE)
    first = read_private_file(str(path))
    assert read_private_file(str(path)) == first
    path.chmod(0o604)
    assert read_private_file(str(path)) != first
    path.unlink()
    assert read_private_file(str(path)) == read_private_file(str(path)) != first


def test_commas_separate_the_keys_of_a_text() -> None:
    listed = keys_of_text(f"{ONE}, '{TWO}' ,\n{ONE},,changeme,")
    assert found(listed) == [(ONE, None), (TWO, None)]
    assert listed.dropped == {"repeats an earlier one": [3], "is a placeholder": [5]}


def test_nothing_that_is_read_shows_a_key(path: Path) -> None:
    write(path, f"{ONE}\nmArKeD with blanks\n{TWO},{ONE}\n")
    assert "mArKeD" not in f"{read_private_file(str(path))!r} {read(path)!r}"
