"""The environment as it is read: `.env` under the process environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hfs_providers import ProviderManager
from hfs_providers.contract.environment import env_prefixes
from hfs_providers.core.settings import Settings


def key(number: int) -> str:
    """A key that can be searched for: no other text contains `mArKeD`."""
    return f"gsk_mArKeD{number:04d}f7a9c3e1b5d8"


def said(settings: Settings) -> str:
    return "\n".join(f"{problem.level}: {problem.message} [{problem.remedy}]" for problem in settings.problems)


class TestNames:
    def test_a_plugin_is_shown_its_own_prefixes(self) -> None:
        settings = Settings.load({"NUM_GROQ": "1", "GROQ_API_KEY": "a", "CEREBRAS_API_KEY": "b", "EXPECTED_GROQ": "1"})
        assert sorted(settings.slice(env_prefixes("groq"))) == ["EXPECTED_GROQ", "GROQ_API_KEY", "NUM_GROQ"]

    def test_what_a_plugin_is_shown_is_read_only(self) -> None:
        view = Settings.load({"GROQ_API_KEY": "a"}).slice(env_prefixes("groq"))
        with pytest.raises(TypeError):
            view["GROQ_API_KEY"] = "b"  # type: ignore[index]


class TestEnvFile:
    """`.env` in the working directory, or `HFS_ENV_FILE`."""

    def test_that_of_the_working_directory_is_read(self) -> None:
        Path(".env").write_text(f"NUM_GROQ=1\nexport GROQ_API_KEY_1='{key(1)}'  # mine\n")
        settings = Settings.load()
        assert (settings.env["NUM_GROQ"], settings.env["GROQ_API_KEY_1"]) == ("1", key(1))
        assert settings.env_file == Path(".env").absolute()

    def test_none_is_fine(self) -> None:
        settings = Settings.load()
        assert (settings.env_file, list(settings.problems)) == (None, [])

    def test_hfs_env_file_takes_its_place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        Path(".env").write_text("GROQ_MODEL=here")
        (tmp_path / "other.env").write_text("GROQ_MODEL=there")
        monkeypatch.setenv("HFS_ENV_FILE", str(tmp_path / "other.env"))
        assert Settings.load().env["GROQ_MODEL"] == "there"

    def test_an_argument_comes_before_hfs_env_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "one.env").write_text("GROQ_MODEL=one")
        (tmp_path / "two.env").write_text("GROQ_MODEL=two")
        monkeypatch.setenv("HFS_ENV_FILE", str(tmp_path / "one.env"))
        assert Settings.load(env_file=tmp_path / "two.env").env["GROQ_MODEL"] == "two"

    def test_the_process_environment_always_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path(".env").write_text("GROQ_MODEL=file\nGROQ_API_KEY=file\n")
        monkeypatch.setenv("GROQ_MODEL", "process")
        settings = Settings.load()
        assert (settings.env["GROQ_MODEL"], settings.env["GROQ_API_KEY"]) == ("process", "file")

    def test_an_explicit_environment_wins_over_a_named_file(self) -> None:
        Path("x.env").write_text("GROQ_MODEL=file\nGROQ_API_KEY=file\n")
        settings = Settings.load({"GROQ_MODEL": "explicit"}, "x.env")
        assert (settings.env["GROQ_MODEL"], settings.env["GROQ_API_KEY"]) == ("explicit", "file")

    def test_an_explicit_environment_stands_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path(".env").write_text("GROQ_MODEL=file\n")
        monkeypatch.setenv("GROQ_API_KEY", "process")
        assert dict(Settings.load({}).env) == {}

    def test_a_reference_in_the_file_does_not_reach_past_an_explicit_environment(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Path("x.env").write_text("GROQ_MODEL=${FROM_THE_PROCESS}\n")
        monkeypatch.setenv("FROM_THE_PROCESS", "process")
        assert Settings.load({}, "x.env").env["GROQ_MODEL"] != "process"

    def test_our_own_variables_may_stand_in_it(self) -> None:
        Path(".env").write_text("HFS_PROVIDER_ORDER=gemini,groq\n")
        assert Settings.load().names("HFS_PROVIDER_ORDER") == ["gemini", "groq"]

    def test_a_byte_order_mark_is_no_part_of_the_first_name(self) -> None:
        Path(".env").write_bytes(b"\xef\xbb\xbfNUM_GROQ=1\r\nGROQ_MODEL=m\r\n")
        settings = Settings.load()
        assert (settings.env["NUM_GROQ"], settings.env["GROQ_MODEL"], list(settings.problems)) == ("1", "m", [])

    def test_a_missing_one_that_was_named_is_a_problem(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HFS_ENV_FILE", "nowhere.env")
        assert "nowhere.env does not exist" in said(Settings.load())

    @pytest.mark.parametrize(
        "content",
        [b"\x89PNG\r\n\x1a\n\x00\x00\xff\xfe", "NUM_GROQ=1\n".encode("utf-16")],
        ids=["binary", "utf-16"],
    )
    def test_one_that_is_no_text_is_a_problem(self, content: bytes) -> None:
        Path(".env").write_bytes(content)
        settings = Settings.load()
        assert [p.level for p in settings.problems] == ["error"]
        assert ".env" in settings.problems[0].message

    def test_an_unreadable_one_is_a_problem(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> str:
            raise PermissionError(13, "Permission denied")

        Path(".env").write_text("GROQ_MODEL=m")
        monkeypatch.setattr(Path, "read_text", refuse)
        settings = Settings.load()
        assert "GROQ_MODEL" not in settings.env
        assert "Permission denied" in said(settings)

    def test_a_directory_of_that_name_is_a_problem(self) -> None:
        Path(".env").mkdir()
        assert [p.level for p in Settings.load().problems] == ["error"]

    @pytest.mark.parametrize("name", ["~nobody-of-this-name/.env", "x" * 300, "a\0b"], ids=["home", "long", "nul"])
    def test_a_name_that_can_be_no_file_is_a_problem(self, name: str) -> None:
        assert [p.level for p in Settings.load({"HFS_ENV_FILE": name}).problems] == ["error"]

    def test_malformed_lines_are_named_by_number_and_the_others_used(self) -> None:
        Path(".env").write_text(f"NUM_GROQ=1\n'{key(2)}\nGROQ_MODEL=m\n=nothing {key(3)}\n")
        settings = Settings.load()
        assert (settings.env["NUM_GROQ"], settings.env["GROQ_MODEL"]) == ("1", "m")
        assert "malformed at lines 2, 4" in said(settings)

    def test_a_malformed_line_is_not_quoted(self, caplog: pytest.LogCaptureFixture) -> None:
        Path(".env").write_text(f"NUM_GROQ=1\n'{key(2)}\n= {key(3)}\n")
        assert "mArKeD" not in said(Settings.load()) + caplog.text

    def test_the_environment_of_the_process_is_never_written(self) -> None:
        Path(".env").write_text(f"NUM_GROQ=1\nGROQ_API_KEY_1={key(1)}\nCEREBRAS_API_KEY={key(2)}\nNEW=1\n")
        before = dict(os.environ)
        with ProviderManager() as manager:
            assert "groq" in manager.available_providers
        assert dict(os.environ) == before

    def test_neither_repr_nor_str_of_the_settings_shows_a_value(self) -> None:
        settings = Settings.load({"GROQ_API_KEY": key(1)})
        assert "mArKeD" not in f"{settings!r} {settings}"
