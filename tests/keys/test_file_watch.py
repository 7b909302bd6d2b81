"""Files that are read again: who is told of what, and how often."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hfs_providers.keys.file_watch import FileWatch
from hfs_providers.keys.key_files import PrivateFile


class Watched:
    """A file, and what was told of it: `answers` are what those who are told return, or raise."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: list[bytes | None] = []
        self.answers: list[bool | Exception] = []
        self.watch = FileWatch(str(path), self._changed)

    def _changed(self, file: PrivateFile) -> bool:
        self.told.append(file.data)
        answer = self.answers.pop(0) if self.answers else True
        if isinstance(answer, Exception):
            raise answer
        return answer

    def look(self, content: str, answers: list[bool | Exception]) -> list[bytes | None]:
        """What is told in several looks at the file with that content."""
        self.path.write_text(content)
        self.told.clear()
        self.answers = answers
        for _ in range(5):
            self.watch.look()
        return list(self.told)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    # The tests look themselves.
    monkeypatch.setattr("hfs_providers.keys.file_watch._watching.add", lambda watch: None)
    found = Watched(tmp_path / "keys")
    yield found
    found.watch.close()


def test_a_change_is_told_once(watched: Watched) -> None:
    assert watched.look("one", [True]) == [b"one"]
    assert watched.look("two", [True]) == [b"two"]
    assert watched.look("two", [True]) == []


def test_a_change_that_could_not_be_applied_yet_is_told_again(watched: Watched) -> None:
    assert watched.look("one", [False, False, True]) == [b"one"] * 3


def test_a_change_that_failed_is_not_told_again_but_the_next_one_is(
    watched: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    assert watched.look("one", [RuntimeError("no")]) == [b"one"]
    assert [record.message for record in caplog.records] == [f"a change of {watched.path} could not be applied"]
    assert watched.look("two", [True]) == [b"two"]


def test_nothing_is_told_after_the_end(watched: Watched) -> None:
    watched.watch.close()
    assert watched.look("one", [True]) == []
