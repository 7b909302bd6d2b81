"""Each provider's own variables as they are read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfs_providers import Limits, Problem
from hfs_providers.authoring import ProviderConfig
from hfs_providers.contract.environment import env_name
from hfs_providers.contract.secret import fingerprint
from hfs_providers.keys.provider_variables import read_provider


def key(number: int) -> str:
    """A key that can be searched for: no other text contains `mArKeD`."""
    return f"gsk_mArKeD{number:04d}f7a9c3e1b5d8"


def keys(*numbers: int, provider: str = "GROQ") -> dict[str, str]:
    return {f"{provider}_API_KEY_{number}": key(number) for number in numbers}


def read(env: Mapping[str, str], provider: str = "groq") -> ProviderConfig:
    return read_provider(provider, env)


def ids(settings: ProviderConfig) -> list[str]:
    return [credential.id for credential in settings.credentials]


def revealed(settings: ProviderConfig) -> list[str]:
    return [credential.secret.reveal() for credential in settings.credentials if credential.secret is not None]


def said(settings: ProviderConfig) -> str:
    return "\n".join(f"{problem.level}: {problem.message} [{problem.remedy}]" for problem in settings.problems)


class TestListedKeys:
    """`X_API_KEYS` and `X_API_KEYS_FILE`."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "groq.keys"
        path.write_text(f"{key(8)}\n{key(9)},team\n")
        path.chmod(0o600)
        return path

    @staticmethod
    def listed(*numbers: int) -> list[str]:
        return [f"groq@{fingerprint(key(number))}" for number in numbers]

    def test_they_follow_the_numbered_keys_and_say_where_they_come_from(self, file: Path) -> None:
        env = {"NUM_GROQ": "1", **keys(1), "GROQ_API_KEYS": f"{key(6)},{key(7)}", "GROQ_API_KEYS_FILE": str(file)}
        found = read(env)
        assert ids(found) == ["groq#1", *self.listed(6, 7, 8, 9)]
        assert revealed(found) == [key(number) for number in (1, 6, 7, 8, 9)]
        assert [each.source for each in found.credentials] == [
            "GROQ_API_KEY_1",
            *["GROQ_API_KEYS"] * 2,
            *[str(file)] * 2,
        ]
        assert [each.params.get("account") for each in found.credentials] == [None] * 4 + ["team"]
        assert (found.problems, found.key_file) == ((), str(file))

    def test_they_need_no_number_of_keys(self, file: Path) -> None:
        found = read({"GROQ_API_KEYS_FILE": f" '{file}' "})
        assert (ids(found), found.problems, found.configured) == (self.listed(8, 9), (), True)

    def test_the_number_of_keys_caps_the_numbered_ones_alone(self, file: Path) -> None:
        found = read({"NUM_GROQ": "1", **keys(1, 9), "GROQ_API_KEYS_FILE": str(file), "EXPECTED_GROQ": "3"})
        assert ids(found) == ["groq#1", *self.listed(8, 9)]
        assert [problem.message for problem in found.problems] == ["NUM_GROQ is 1, but 2 usable keys were found"]

    def test_a_wrong_number_of_keys_leaves_the_lists(self, file: Path) -> None:
        assert ids(read({"NUM_GROQ": "many", **keys(1), "GROQ_API_KEYS_FILE": str(file)})) == self.listed(8, 9)
        found = read({"NUM_GROQ": "2", "GROQ_API_KEYS_FILE": str(file)})
        assert [problem.level for problem in found.problems] == ["warning"]

    def test_a_numbered_key_keeps_its_number_and_that_is_said(self, file: Path) -> None:
        env = {"NUM_GROQ": "2", **keys(3, 8), "GROQ_API_KEYS": f"{key(3)},{key(9)}", "GROQ_API_KEYS_FILE": str(file)}
        found = read(env)
        assert ids(found) == ["groq#3", "groq#8", *self.listed(9)]
        assert [(problem.message, problem.level) for problem in found.problems] == [
            ("GROQ_API_KEYS repeats keys that keep their numbers (groq#3)", "warning"),
            (f"GROQ_API_KEYS_FILE: each entry that repeats an earlier one is dropped (line 2 of {file})", "warning"),
            (f"GROQ_API_KEYS_FILE: {file} repeats keys that keep their numbers (groq#8)", "warning"),
        ]

    def test_what_is_dropped_is_told_by_its_lines(self, file: Path) -> None:
        file.write_text("\n".join([key(8), *["a b"] * 8, "changeme", "mArKeD,mArKeD"]))
        found = read({"GROQ_API_KEYS_FILE": str(file)})
        assert ids(found) == self.listed(8)
        assert [problem.message.partition(": each entry that ")[2] for problem in found.problems] == [
            "contains blanks, line breaks or other characters that no key has is dropped (lines 2, 3, 4, 5, 6 and 3 "
            f"more of {file})",
            f"is a placeholder is dropped (line 10 of {file})",
            f"has a key where an account belongs is dropped (line 11 of {file})",
        ]

    def test_a_file_without_keys_is_an_error_where_there_are_no_others(self, file: Path) -> None:
        file.write_text("")
        found = read({"GROQ_API_KEYS_FILE": str(file)})
        assert (found.configured, found.key_file) == (False, str(file))
        assert said(found) == f"error: GROQ_API_KEYS_FILE: {file} holds no key [Write one key per line into it]"
        found = read({"NUM_GROQ": "1", **keys(1), "GROQ_API_KEYS_FILE": str(file)})
        assert [problem.level for problem in found.problems] == ["warning"]

    def test_a_file_that_everybody_can_read_is_used_with_a_warning(self, file: Path) -> None:
        file.chmod(0o644)
        found = read({"GROQ_API_KEYS_FILE": str(file)})
        assert ids(found) == self.listed(8, 9)
        assert said(found).startswith(f"warning: GROQ_API_KEYS_FILE: {file} can be read by every user of this machine")

    @pytest.mark.parametrize("value", [key(1), f"gsk/{key(1)}", f"~nobody/{key(1)}"])
    def test_a_key_in_place_of_a_path_is_not_shown(self, value: str) -> None:
        found = read({"GROQ_API_KEYS_FILE": value})
        assert "GROQ_API_KEYS_FILE: the file that it names (not shown: it may be a key) does not exist" in said(found)
        assert "mArKeD" not in said(found) + repr(found.credentials)

    def test_a_path_is_that_of_the_working_directory_at_the_start(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(file.parent)
        monkeypatch.setenv("HOME", str(file.parent))
        for path in ("groq.keys", "~/groq.keys"):
            assert read({"GROQ_API_KEYS_FILE": path}).key_file == str(file)

    def test_a_provider_of_endpoints_has_no_lists(self, file: Path) -> None:
        env = {"LOCAL_API_KEYS": key(1), "LOCAL_API_KEYS_FILE": str(file)}
        found = read_provider("local", env, keyless=True)
        assert (ids(found), found.key_file) == (["local#0"], None)


class TestNumberOfKeys:
    """`NUM_X` and `X_API_KEY_1..N`."""

    def test_as_many_keys_as_declared_is_no_problem(self) -> None:
        found = read({"NUM_GROQ": "2", **keys(1, 2)})
        assert (ids(found), found.declared, found.configured, found.problems) == (["groq#1", "groq#2"], 2, True, ())

    def test_missing_with_no_key_is_a_warning(self) -> None:
        found = read({})
        assert [(p.level, p.message) for p in found.problems] == [("warning", "Missing NUM_GROQ environment variable")]
        assert not found.configured

    @pytest.mark.parametrize("env", [{}, {"NUM_GROQ": ""}, {"NUM_GROQ": "  "}], ids=["missing", "empty", "blank"])
    def test_without_it_all_numbered_keys_are_used_and_it_is_said(self, env: dict[str, str]) -> None:
        found = read({**env, **keys(1, 2, 7)})
        assert ids(found) == ["groq#1", "groq#2", "groq#7"]
        assert [p.message for p in found.problems] == ["Missing NUM_GROQ environment variable"]
        assert found.problems[0].remedy is not None
        assert "NUM_GROQ=3" in found.problems[0].remedy

    @pytest.mark.parametrize("text", ["abc", "1.5", "2 keys", "0x2", "two", "1_0", "٣", "--1", "1e1"])
    def test_not_an_integer_is_an_error_and_not_configured(self, text: str) -> None:
        found = read({"NUM_GROQ": text, **keys(1, 2)})
        assert (found.configured, ids(found), found.declared) == (False, [], None)
        assert [p.level for p in found.problems] == ["error"]
        assert "NUM_GROQ" in found.problems[0].message

    @pytest.mark.parametrize("text", ["-1", "-20", "1000000000", "9999999999999999999999"])
    def test_no_possible_number_is_an_error_and_not_configured(self, text: str) -> None:
        found = read({"NUM_GROQ": text, **keys(1, 2)})
        assert (found.configured, ids(found)) == (False, [])
        assert [p.level for p in found.problems] == ["error"]
        assert "NUM_GROQ" in found.problems[0].message

    @pytest.mark.parametrize(("text", "number"), [("000000002", 2), ("999999999", 999_999_999)])
    def test_a_number_has_nine_digits_at_most(self, text: str, number: int) -> None:
        found = read({"NUM_GROQ": text, **keys(1, 2)})
        assert (found.configured, found.declared) == (True, number)

    def test_zero_uses_no_key_and_says_so(self) -> None:
        found = read({"NUM_GROQ": "0", **keys(1, 2)})
        assert (found.configured, found.declared, ids(found)) == (False, 0, [])
        assert "NUM_GROQ is 0" in said(found)

    def test_zero_without_keys_is_what_was_asked_for(self) -> None:
        found = read({"NUM_GROQ": "0"})
        assert (found.configured, found.problems) == (False, ())

    def test_larger_than_the_keys_found_is_a_warning_and_configured(self) -> None:
        found = read({"NUM_GROQ": "5", **keys(1, 2)})
        assert (ids(found), found.configured) == (["groq#1", "groq#2"], True)
        assert [p.level for p in found.problems] == ["warning"]
        assert "NUM_GROQ is 5" in found.problems[0].message
        assert "2 " in found.problems[0].message

    def test_smaller_than_the_keys_found_uses_the_first_and_warns(self) -> None:
        found = read({"NUM_GROQ": "2", **keys(1, 2, 3)})
        assert (ids(found), found.configured) == (["groq#1", "groq#2"], True)
        assert [p.level for p in found.problems] == ["warning"]

    def test_declared_but_no_key_found_is_not_configured(self) -> None:
        found = read({"NUM_GROQ": "3"})
        assert not found.configured
        assert "NUM_GROQ is 3" in said(found)

    def test_over_a_gap_a_key_keeps_the_index_of_the_environment(self) -> None:
        found = read({"NUM_GROQ": "2", **keys(1, 3)})
        assert (ids(found), found.problems) == (["groq#1", "groq#3"], ())

    def test_the_first_that_exist_count_over_gaps(self) -> None:
        found = read({"NUM_GROQ": "2", **keys(4, 9, 12)})
        assert ids(found) == ["groq#4", "groq#9"]

    def test_keys_stand_in_numeric_order(self) -> None:
        found = read({"NUM_GROQ": "3", **keys(10, 2, 1)})
        assert ids(found) == ["groq#1", "groq#2", "groq#10"]

    def test_a_number_in_blanks_or_quotes_is_a_number(self) -> None:
        assert read({"NUM_GROQ": ' "2" ', **keys(1, 2)}).declared == 2


class TestSingleKey:
    """`X_API_KEY` alone."""

    def test_is_one_key_and_no_warning(self) -> None:
        found = read({"GROQ_API_KEY": key(1)})
        assert (revealed(found), found.configured, found.problems) == ([key(1)], True, ())

    def test_beside_numbered_keys_is_not_used_and_reported(self) -> None:
        found = read({"NUM_GROQ": "1", "GROQ_API_KEY": key(9), **keys(1)})
        assert revealed(found) == [key(1)]
        assert "GROQ_API_KEY is not used" in said(found)

    def test_that_repeats_a_numbered_key_is_no_problem(self) -> None:
        assert read({"NUM_GROQ": "1", "GROQ_API_KEY": key(1), **keys(1)}).problems == ()

    def test_google_api_key_serves_gemini(self) -> None:
        found = read_provider("gemini", {"GOOGLE_API_KEY": key(1)}, aliases=("GOOGLE_API_KEY",))
        assert (revealed(found), found.problems) == ([key(1)], ())

    def test_gemini_s_own_variable_comes_before_google_s(self) -> None:
        env = {"GOOGLE_API_KEY": key(1), "GEMINI_API_KEY": key(2)}
        assert revealed(read_provider("gemini", env, aliases=("GOOGLE_API_KEY",))) == [key(2)]

    def test_a_blank_variable_of_its_own_does_not_hide_google_s(self) -> None:
        env = {"GOOGLE_API_KEY": key(1), "GEMINI_API_KEY": ""}
        assert revealed(read_provider("gemini", env, aliases=("GOOGLE_API_KEY",))) == [key(1)]

    def test_google_api_key_serves_no_one_else(self) -> None:
        assert not read({"GOOGLE_API_KEY": key(1)}).configured


class TestBadKeys:
    """What is no key is dropped and reported; what surrounds a key is removed and reported."""

    def test_a_duplicate_is_dropped_and_reported_by_its_variable(self) -> None:
        found = read({"NUM_GROQ": "2", **keys(1, 2), "GROQ_API_KEY_3": key(1)})
        assert ids(found) == ["groq#1", "groq#2"]
        assert "GROQ_API_KEY_3 repeats GROQ_API_KEY_1" in said(found)

    def test_a_duplicate_in_quotes_is_a_duplicate(self) -> None:
        assert ids(read({"NUM_GROQ": "1", **keys(1), "GROQ_API_KEY_2": f'"{key(1)}"'})) == ["groq#1"]

    @pytest.mark.parametrize(
        "text",
        [
            "your_api_key",
            "YOUR_API_KEY",
            "your-groq-api-key",
            "your_key_here",
            "<your key>",
            "xxxxxxxxxxxx",
            "XXXX",
            "gsk_xxxxxxxxxxxx",
            "sk-xxxxxxxx",
            "changeme",
            "${GROQ_API_KEY}",
            "...",
            "gsk_...",
            "AIza...",
            "gsk_\u2026",
            "sk-ab...yz",
            "api_key",
        ],
    )
    def test_a_placeholder_is_dropped_and_reported(self, text: str) -> None:
        found = read({"NUM_GROQ": "1", **keys(1), "GROQ_API_KEY_2": text})
        assert ids(found) == ["groq#1"]
        assert "GROQ_API_KEY_2 is a placeholder" in said(found)

    def test_no_key_of_the_readme_counts(self) -> None:
        readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
        written = re.findall(r"^([A-Z]+)_API_KEY_\d+=(.+)$", readme, re.MULTILINE)
        assert written
        assert [read({f"{name}_API_KEY_1": value}, name.lower()).credentials for name, value in written] == [()] * len(
            written
        )

    @pytest.mark.parametrize("text", ["", "   ", '""', "''", "\n", '" "'])
    def test_a_blank_is_dropped_and_reported(self, text: str) -> None:
        found = read({"NUM_GROQ": "1", **keys(1), "GROQ_API_KEY_2": text})
        assert ids(found) == ["groq#1"]
        assert "GROQ_API_KEY_2 is blank" in said(found)

    @pytest.mark.parametrize(
        "text", ["AIzaSyXXmArKeD9f3", "sk-or-v1-0123456789abcdef", "csk-test9f8e7d6c5b4a", "keyring0f9e8d7c6b"]
    )
    def test_a_real_key_that_resembles_a_placeholder_is_kept(self, text: str) -> None:
        assert revealed(read({"NUM_GROQ": "1", "GROQ_API_KEY_1": text})) == [text]

    @pytest.mark.parametrize(
        "around", [" {} ", "{}\n", "\n{}", "{}\r\n", "\t{}", '"{}"', "'{}'", ' "{}" ', '"{} "', "“{}”", "\u00a0{}"]
    )
    def test_blanks_quotes_and_line_breaks_around_a_key_are_removed_and_reported(self, around: str) -> None:
        found = read({"NUM_GROQ": "1", "GROQ_API_KEY_1": around.format(key(1))})
        assert revealed(found) == [key(1)]
        assert "GROQ_API_KEY_1" in said(found)
        assert [p.level for p in found.problems] == ["warning"]

    @pytest.mark.parametrize("inside", [" ", "\n", "\r\n", "\t", "\x00", "é", "\u200b", "\x7f"])
    def test_a_value_with_such_a_character_inside_is_no_key(self, inside: str) -> None:
        found = read({"NUM_GROQ": "1", **keys(1), "GROQ_API_KEY_2": f"{key(2)[:12]}{inside}{key(2)[12:]}"})
        assert ids(found) == ["groq#1"]
        assert "GROQ_API_KEY_2" in said(found)

    @pytest.mark.parametrize("name", ["GROQ_API_KEY_", "GROQ_API_KEY_A", "GROQ_API_KEY_1X", "GROQ_API_KEYS_1"])
    def test_another_variable_holds_no_key(self, name: str) -> None:
        assert not read({"NUM_GROQ": "1", name: key(1)}).configured

    def test_a_problem_says_what_mends_it_and_whom_it_concerns(self) -> None:
        found = read({"NUM_GROQ": "abc", **keys(1), "GROQ_API_KEY_2": "xxxx"})
        assert {p.provider for p in found.problems} == {"groq"}
        assert all(p.remedy for p in found.problems)


class TestExpected:
    """`EXPECTED_X`."""

    def test_equal_to_the_usable_keys_is_no_problem(self) -> None:
        found = read({"NUM_GROQ": "2", "EXPECTED_GROQ": "2", **keys(1, 2)})
        assert (found.expected, found.problems) == (2, ())

    def test_unset_is_none(self) -> None:
        assert read({"NUM_GROQ": "1", **keys(1)}).expected is None

    @pytest.mark.parametrize("number", ["1", "16", "0"])
    def test_different_is_a_warning_and_configured(self, number: str) -> None:
        found = read({"NUM_GROQ": "2", "EXPECTED_GROQ": number, **keys(1, 2)})
        assert found.configured
        assert [p.level for p in found.problems] == ["warning"]
        assert f"EXPECTED_GROQ is {number}" in found.problems[0].message

    def test_counts_usable_keys_not_variables(self) -> None:
        found = read({"NUM_GROQ": "2", "EXPECTED_GROQ": "2", **keys(1), "GROQ_API_KEY_2": "xxxx"})
        assert "EXPECTED_GROQ is 2" in said(found)

    def test_not_an_integer_is_reported_and_disturbs_nothing(self) -> None:
        found = read({"NUM_GROQ": "1", "EXPECTED_GROQ": "many", **keys(1)})
        assert (found.configured, found.expected) == (True, None)
        assert "EXPECTED_GROQ is not an integer" in said(found)

    def test_not_an_integer_is_a_warning_because_the_provider_can_be_used(self) -> None:
        found = read({"NUM_GROQ": "1", "EXPECTED_GROQ": "many", **keys(1)})
        assert [p.level for p in found.problems] == ["warning"]


class TestParameters:
    """`X_ACCOUNT_n` and any other `X_<PARAM>_n`."""

    def test_an_account_belongs_to_the_key_of_its_number(self) -> None:
        found = read({"NUM_GROQ": "2", **keys(1, 3), "GROQ_ACCOUNT_3": "team"})
        assert [c.account for c in found.credentials] == [found.credentials[0].fingerprint, "team"]

    def test_keys_may_share_an_account(self) -> None:
        found = read({"NUM_GROQ": "2", **keys(1, 2), "GROQ_ACCOUNT_1": "a", "GROQ_ACCOUNT_2": "a"})
        assert {c.account for c in found.credentials} == {"a"}

    @pytest.mark.parametrize("param", ["region", "deployment", "endpoint", "api_version"])
    def test_any_other_parameter_reaches_the_credential(self, param: str) -> None:
        found = read({"NUM_GROQ": "1", **keys(1), f"GROQ_{param.upper()}_1": " eu-west "})
        assert dict(found.credentials[0].params) == {param: "eu-west"}

    def test_no_parameter_holds_another_provider_s_key(self) -> None:
        found = read({"NUM_GROQ": "1", **keys(1), **keys(1, provider="GROQ_EU")})
        assert dict(found.credentials[0].params) == {}

    def test_a_keyless_provider_takes_endpoints(self) -> None:
        env = {"NUM_VLLM": "2", "VLLM_ENDPOINT_1": "http://a:8000", "VLLM_ENDPOINT_2": "http://b:8000"}
        found = read_provider("vllm", env, keyless=True)
        assert [(c.id, c.secret, c.params["endpoint"]) for c in found.credentials] == [
            ("vllm#1", None, "http://a:8000"),
            ("vllm#2", None, "http://b:8000"),
        ]

    def test_a_keyless_provider_needs_no_variable_at_all(self) -> None:
        found = read_provider("vllm", {}, keyless=True)
        assert (found.configured, found.problems) == (True, ())


class TestBaseUrlAndModel:
    """`X_BASE_URL` and `X_MODEL`."""

    @pytest.mark.parametrize(
        ("text", "url"),
        [
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
            ("https://proxy.example/openai/v1/", "https://proxy.example/openai/v1"),
            (' "https://proxy.example" ', "https://proxy.example"),
            ("", None),
            ("  ", None),
        ],
    )
    def test_a_url_is_taken_over(self, text: str, url: str | None) -> None:
        found = read({"NUM_GROQ": "1", **keys(1), "GROQ_BASE_URL": text})
        assert (found.base_url, found.problems) == (url, ())

    @pytest.mark.parametrize("text", ["api.groq.com", "ftp://x", "http://", "https:///v1", "http://a b", "file:///etc"])
    def test_no_url_is_ignored_and_reported(self, text: str) -> None:
        found = read({"NUM_GROQ": "1", **keys(1), "GROQ_BASE_URL": text})
        assert (found.base_url, found.configured) == (None, True)
        assert "GROQ_BASE_URL" in said(found)

    def test_the_model_is_taken_over(self) -> None:
        assert read({"GROQ_MODEL": " qwen/qwen3-32b "}).default_model == "qwen/qwen3-32b"

    @pytest.mark.parametrize("env", [{}, {"GROQ_MODEL": ""}, {"GROQ_MODEL": "  "}])
    def test_no_model_is_none(self, env: dict[str, str]) -> None:
        assert read(env).default_model is None


class TestLimits:
    """`X_LIMITS`."""

    def test_all_of_them(self) -> None:
        found = read({"NUM_GROQ": "1", **keys(1), "GROQ_LIMITS": "rpm=30,rph=1000,rpd=14400,tpm=6000,tph=7,tpd=8"})
        assert found.limits["*"] == Limits(rpm=30, rph=1000, rpd=14400, tpm=6000, tph=7, tpd=8)
        assert found.problems == ()

    def test_what_is_not_named_is_unlimited(self) -> None:
        assert read({"GROQ_LIMITS": "rpm=30"}).limits["*"] == Limits(rpm=30)

    @pytest.mark.parametrize("text", [" RPM=30 , TPM=6_000 ", "rpm=30,,tpm=6000,", "rpm=30 tpm=6000"])
    def test_writing_it_loosely_is_fine(self, text: str) -> None:
        found = read({"NUM_GROQ": "1", **keys(1), "GROQ_LIMITS": text})
        assert (found.limits, found.problems) == ({"*": Limits(rpm=30, tpm=6000)}, ())

    @pytest.mark.parametrize("text", ["none", "None", " NONE "])
    def test_none_switches_the_plugin_s_own_off(self, text: str) -> None:
        found = read({"NUM_GROQ": "1", **keys(1), "GROQ_LIMITS": text})
        assert (found.limits, found.problems) == ({"*": Limits()}, ())

    @pytest.mark.parametrize("env", [{}, {"GROQ_LIMITS": ""}])
    def test_unset_leaves_them_to_the_plugin(self, env: dict[str, str]) -> None:
        found = read(env)
        assert found.limits == {}

    @pytest.mark.parametrize("part", ["rps=3", "tpm", "tpm=", "tpm=lots", "tpm=-5", "tpm=0", "tpm=1.5", "=5", "tpm=__"])
    def test_a_bad_part_is_reported_and_the_good_ones_count(self, part: str) -> None:
        found = read({"NUM_GROQ": "1", **keys(1), "GROQ_LIMITS": f"rpm=30,{part}"})
        assert (found.limits, found.configured) == ({"*": Limits(rpm=30)}, True)
        assert [p.level for p in found.problems] == ["warning"]
        assert "GROQ_LIMITS" in found.problems[0].message

    def test_garbage_alone_leaves_them_to_the_plugin(self) -> None:
        found = read({"NUM_GROQ": "1", **keys(1), "GROQ_LIMITS": "garbage"})
        assert (found.limits, len(found.problems)) == ({}, 1)


class TestNames:
    """X is the provider's name in capitals, `-` as `_`."""

    def test_a_dash_is_an_underscore(self) -> None:
        assert env_name("acme-cloud-2") == "ACME_CLOUD_2"

    def test_such_a_provider_is_read_like_any(self) -> None:
        found = read({"NUM_ACME_CLOUD": "1", **keys(1, provider="ACME_CLOUD"), "ACME_CLOUD_MODEL": "m"}, "acme-cloud")
        assert (ids(found), found.default_model, found.problems) == (["acme-cloud#1"], "m", ())

    def test_its_missing_count_names_the_variable_as_it_is_written(self) -> None:
        assert read({}, "acme-cloud").problems[0].message == "Missing NUM_ACME_CLOUD environment variable"


WRONG_PLACES = [
    "GROQ_API_KEYS",
    "GROQ_API_KEYS_FILE",
    "NUM_GROQ",
    "EXPECTED_GROQ",
    "GROQ_LIMITS",
    "GROQ_BASE_URL",
    "GROQ_API_KEY",
    "GROQ_API_KEY_7",
    "GROQ_ACCOUNT_1",
]


class TestNothingShown:
    """No problem contains a key, wherever the key was put."""

    @pytest.mark.parametrize("variable", WRONG_PLACES)
    @pytest.mark.parametrize("form", ["{}", '"{}"', "{} {}", "rpm=30,{}", "{}=5", "tpm={}", "http://{} x"])
    def test_a_key_in_the_wrong_variable_is_not_shown(self, variable: str, form: str) -> None:
        found = read({**keys(1), variable: form.replace("{}", key(5))})
        assert "marked" not in said(found).lower()

    def test_neither_repr_nor_str_of_what_was_read_shows_a_key(self) -> None:
        found = read({"NUM_GROQ": "2", **keys(1, 2), "GROQ_ACCOUNT_1": key(9)})
        assert "mArKeD" not in f"{found!r} {found} {found.credentials}"

    def test_a_problem_is_a_problem(self) -> None:
        assert all(isinstance(problem, Problem) for problem in read({"NUM_GROQ": "abc"}).problems)


NAMES = st.one_of(
    st.sampled_from(
        [*WRONG_PLACES, "GROQ_API_KEY_0", "GROQ_API_KEY_2", "GROQ_MODEL", "GROQ_REGION_2", "GROQ_ENDPOINT"]
    ),
    st.from_regex(r"(NUM_|EXPECTED_)?GROQ_?[A-Z_]{0,8}[0-9]{0,8}", fullmatch=True),
    st.text(max_size=12),
)
MARKED = st.builds(
    lambda before, number, after: f"{before}{key(number)}{after}",
    st.text(max_size=4),
    st.integers(0, 3),
    st.text(max_size=4),
)
VALUES = st.one_of(MARKED, st.text(max_size=40), st.integers().map(str), st.just("rpm=1,tpm=x"), st.just(""))


@given(env=st.dictionaries(NAMES, VALUES, max_size=12), keyless=st.booleans())
def test_any_environment_can_be_read_and_no_key_is_shown(env: dict[str, str], keyless: bool) -> None:
    found = read_provider("groq", env, aliases=("GROQ_TOKEN",), keyless=keyless)
    assert "marked" not in said(found).lower()
    assert found.configured == bool(found.credentials)
    if not keyless:
        assert all(text.isascii() and text.isprintable() and " " not in text for text in revealed(found))
        assert len(set(revealed(found))) == len(found.credentials)
