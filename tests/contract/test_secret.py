"""A key is never shown: not by the object that holds it, not by a text that someone else wrote."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import pickle
import traceback
from collections import namedtuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfs_providers.authoring import Credential, ProviderConfig, Secret
from hfs_providers.contract.redaction import Redactor
from hfs_providers.keys import fingerprint

KEY = "gsk_mArKeD7Qf2Zt9Lx4Vb8Nw3Kp6Hs1Yz"
OTHER = "sk-or-v1-mArKeD5c0ffee9d8e7f6a5b4c3d2e1f0"


@pytest.fixture
def redactor() -> Redactor:
    return Redactor([("groq#3", Secret(KEY)), ("openrouter#1", Secret(OTHER))])


class TestSecret:
    def test_reveal_gives_the_key(self) -> None:
        assert Secret(KEY).reveal() == KEY

    @pytest.mark.parametrize(
        "show",
        [
            repr,
            str,
            lambda secret: f"{secret}",
            lambda secret: f"{secret!r}",
            lambda secret: f"{secret:>60}",
            lambda secret: "{}".format(secret),  # noqa: UP032  the method is what is tested
            lambda secret: "%s %r" % (secret, secret),  # noqa: UP031  the same
            lambda secret: repr([secret, {"key": secret}]),
            lambda secret: repr(Credential("groq#3", secret)),
            lambda secret: repr(ProviderConfig("groq", (Credential("groq#3", secret),))),
            lambda secret: logging.LogRecord("x", 20, "", 1, "%s", (secret,), None).getMessage(),
        ],
    )
    def test_showing_it_shows_the_fingerprint(self, show: object) -> None:
        shown = show(Secret(KEY))  # type: ignore[operator]
        assert "mArKeD" not in shown
        assert fingerprint(KEY) in shown

    def test_it_has_no_dictionary_to_look_into(self) -> None:
        with pytest.raises(TypeError):
            vars(Secret(KEY))

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_it_refuses_to_be_pickled(self, protocol: int) -> None:
        with pytest.raises(TypeError, match="never pickled"):
            pickle.dumps(Secret(KEY), protocol)

    def test_it_is_no_json(self) -> None:
        with pytest.raises(TypeError):
            json.dumps(Secret(KEY))

    @pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
    def test_a_copy_is_itself(self, duplicate: object) -> None:
        secret = Secret(KEY)
        assert duplicate(secret) is secret  # type: ignore[operator]

    def test_a_deep_copy_of_what_holds_it_shares_it(self) -> None:
        credential = Credential("groq#3", Secret(KEY))
        assert copy.deepcopy(credential).secret is credential.secret

    def test_equal_keys_are_equal_and_hash_alike(self) -> None:
        assert {Secret(KEY), Secret(KEY)} == {Secret(KEY)}

    @pytest.mark.parametrize("other", [Secret(OTHER), KEY, None])
    def test_anything_else_is_not_equal(self, other: object) -> None:
        assert Secret(KEY) != other

    @given(st.text())
    def test_any_text_can_be_held_and_compared(self, text: str) -> None:
        assert Secret(text) == Secret(text)

    def test_a_value_with_undecodable_bytes_can_be_held_and_compared(self) -> None:
        # What os.environ makes of bytes that are not UTF-8.
        assert Secret("gsk_\udc80") == Secret("gsk_\udc80")


class TestFingerprint:
    def test_is_the_start_of_the_sha256(self) -> None:
        assert fingerprint(KEY) == hashlib.sha256(KEY.encode()).hexdigest()[:16]

    def test_is_sixteen_hex_digits(self) -> None:
        assert len(fingerprint(KEY)) == 16
        assert int(fingerprint(KEY), 16) >= 0

    def test_is_that_of_the_secret_and_its_credential(self) -> None:
        assert Secret(KEY).fingerprint == Credential("groq#3", Secret(KEY)).fingerprint == fingerprint(KEY)

    def test_a_keyless_credential_says_so(self) -> None:
        assert Credential("vllm#1", None).fingerprint == "keyless"


class TestScrubbedText:
    """`Redactor.scrub`."""

    def test_a_known_key_becomes_its_id(self, redactor: Redactor) -> None:
        assert redactor.scrub(f"Incorrect API key {KEY}.") == "Incorrect API key [groq#3]."

    @pytest.mark.parametrize(
        "text",
        [
            f"{KEY}{OTHER}",
            f"https://x.example/v1?key={KEY}&alt=sse",
            f'{{"key": "{KEY}"}}',
            f"'{KEY}', b'{OTHER}'",
            f"Authorization: Bearer {KEY}",
            f"x-goog-api-key:{KEY}",
            f"line one\n{KEY}\nline three",
        ],
    )
    def test_no_known_key_is_left_wherever_it_stands(self, redactor: Redactor, text: str) -> None:
        assert "mArKeD" not in redactor.scrub(text)

    def test_of_keys_that_contain_one_another_the_longer_goes_whole(self) -> None:
        redactor = Redactor([("a#1", Secret("gsk_mArKeD")), ("a#2", Secret("gsk_mArKeD_and_more"))])
        assert redactor.scrub("gsk_mArKeD_and_more") == "[a#2]"

    @pytest.mark.parametrize("begins", ["gsk_", "gsk mArKeD ", ""])
    def test_each_of_very_many_keys_becomes_its_id(self, begins: str) -> None:
        keys = {f"a#{number}": f"{begins}{number * 7919:06d}" for number in range(5_000)}
        redactor = Redactor((key_id, Secret(key)) for key_id, key in keys.items())
        assert redactor.scrub(f"{keys['a#17']}, not {keys['a#4999']}") == "[a#17], not [a#4999]"

    def test_a_key_that_is_added_becomes_its_id(self, redactor: Redactor) -> None:
        redactor.add([("groq#4", Secret("another_mArKeD"))])
        assert redactor.scrub(f"{KEY} another_mArKeD") == "[groq#3] [groq#4]"

    @pytest.mark.parametrize(
        "masked",
        [
            "gsk_ab***yz",
            "gsk_mA**********************s1Yz",
            "sk-or-v1-mAr••••••••e1f0",
            "gsk_mA…s1Yz",
            "sk-proj-****************************************wxyz",
            "gsk_mA***",
            "****************s1Yz",
            "****s1Yz",
        ],
    )
    def test_a_masked_key_goes_because_a_part_of_a_key_is_shown(self, redactor: Redactor, masked: str) -> None:
        scrubbed = redactor.scrub(f"Incorrect API key provided: {masked}. You can find yours at https://x.example.")
        assert scrubbed == "Incorrect API key provided: [redacted]. You can find yours at https://x.example."

    @pytest.mark.parametrize("masked", ["gsk_mArK...s1Yz", "...s1Yz", "gsk_mArKeD7Q..."])
    def test_a_known_key_shortened_with_dots_goes(self, redactor: Redactor, masked: str) -> None:
        scrubbed = redactor.scrub(f"API key {masked} is invalid")
        assert not any(part in scrubbed for part in ("s1Yz", "mArK"))

    def test_an_unknown_masked_key_goes_as_well(self) -> None:
        assert "yz" not in Redactor().scrub("the key gsk_ab***yz was refused")

    @pytest.mark.parametrize(
        "text",
        ["Bearer abcdefgh12345678", "authorization: bearer eyJhbGciOi.JIUzI1NiIs.InR5cCI6==", "BEARER\tA1b2C3d4E5"],
    )
    def test_a_bearer_token_goes(self, redactor: Redactor, text: str) -> None:
        assert not any(part in redactor.scrub(text) for part in ("cdefgh", "JIUz", "A1b2"))

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "Rate limit reached for model `llama-3.3-70b-versatile` on tokens per minute (TPM): Limit 6000",
            "**bold** and *italic* and ***both***",
            "call f(**kwargs) or 2 * 3 or a*b",
            "2**8 is 256, x**2 a square",
            "src/**/*.py",
            "/* a comment */",
            "*****",
            "See the note below.*",
            "please wait…",
            "one … two",
            "… and so on",
            "Bearer authentication is required",
            "the bearer of bad news",
            "wait... then retry",
        ],
    )
    def test_ordinary_text_is_unharmed(self, redactor: Redactor, text: str) -> None:
        assert redactor.scrub(text) == text

    def test_what_is_too_short_for_a_key_does_not_eat_words(self) -> None:
        assert Redactor([("a#1", Secret("the"))]).scrub("the quick brown fox") == "the quick brown fox"

    def test_without_keys_text_is_unharmed(self) -> None:
        assert Redactor().scrub("a message") == "a message"

    def test_scrubbing_twice_changes_nothing_more(self, redactor: Redactor) -> None:
        once = redactor.scrub(f"{KEY} and gsk_ab***yz")
        assert redactor.scrub(once) == once

    def test_its_repr_shows_no_key(self, redactor: Redactor) -> None:
        assert repr(redactor) == "Redactor(2 keys)"

    @given(before=st.text(), after=st.text())
    def test_no_surrounding_text_hides_a_key(self, before: str, after: str) -> None:
        assert KEY not in Redactor([("groq#3", Secret(KEY))]).scrub(f"{before}{KEY}{after}")


class SdkError(Exception):
    """As the SDKs of the OpenAI family make them."""

    def __init__(self, message: str, body: object) -> None:
        super().__init__(message)
        self.message = message
        self.body = body


class ReadOnlyError(Exception):
    @property
    def message(self) -> str:
        return str(self.args[0])


def printed(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


Pair = namedtuple("Pair", "name value")


class TestScrubbedException:
    """`Redactor.scrub_exception`."""

    def test_its_message_is_scrubbed(self, redactor: Redactor) -> None:
        error = ValueError(f"bad key {KEY}")
        redactor.scrub_exception(error)
        assert str(error) == "bad key [groq#3]"

    @pytest.mark.parametrize(
        "body",
        [
            {"error": {"message": f"Invalid {KEY}"}},
            {"error": [{"details": [f"a {KEY}", ("b", OTHER)]}]},
            [{"x": {"y": {"z": KEY}}}],
            {KEY: "as a name"},
            f"plain {KEY}",
        ],
    )
    def test_a_body_is_scrubbed_at_any_depth(self, redactor: Redactor, body: object) -> None:
        error = SdkError("refused", body)
        redactor.scrub_exception(error)
        assert "mArKeD" not in repr(error.body)

    def test_what_is_no_text_in_a_body_stays(self, redactor: Redactor) -> None:
        error = SdkError("refused", {"code": 401, "ok": False, "why": None, "n": 1.5})
        redactor.scrub_exception(error)
        assert error.body == {"code": 401, "ok": False, "why": None, "n": 1.5}

    @pytest.mark.parametrize(
        "argument",
        [{"key": KEY}, [KEY], (KEY,), f"{KEY}".encode(), Pair("key", KEY), {KEY}, frozenset({KEY})],
        ids=lambda value: type(value).__name__,
    )
    def test_arguments_of_any_kind_are_scrubbed(self, redactor: Redactor, argument: object) -> None:
        error = RuntimeError("failed", argument)
        redactor.scrub_exception(error)
        assert "mArKeD" not in printed(error)

    def test_an_attribute_that_only_its_own_text_shows_is_scrubbed(self, redactor: Redactor) -> None:
        class OwnWords(Exception):
            def __str__(self) -> str:
                return str(vars(self)["reason"])

        error = OwnWords()
        vars(error)["reason"] = f"bad key {KEY}"
        redactor.scrub_exception(error)
        assert str(error) == "bad key [groq#3]"

    def test_a_read_only_message_is_scrubbed_through_the_arguments(self, redactor: Redactor) -> None:
        error = ReadOnlyError(KEY)
        redactor.scrub_exception(error)
        assert "mArKeD" not in error.message

    def test_the_whole_chain_is_scrubbed(self, redactor: Redactor) -> None:
        try:
            try:
                try:
                    raise OSError(KEY)
                except OSError:
                    raise SdkError(f"context {KEY}", {"k": KEY})  # noqa: B904  the implicit context is meant
            except SdkError as cause:
                raise RuntimeError(f"cause {OTHER}") from cause
        except RuntimeError as error:
            redactor.scrub_exception(error)
            text = printed(error)
            assert "RuntimeError: cause [openrouter#1]" in text
            assert "SdkError: context [groq#3]" in text
            assert "mArKeD" not in "\n".join(
                line
                for line in text.splitlines()
                if not line.startswith("    ")  # without the lines of source
            )

    def test_a_chain_that_bites_its_tail_ends(self, redactor: Redactor) -> None:
        first, second = ValueError(KEY), ValueError(KEY)
        first.__cause__, second.__cause__ = second, first
        redactor.scrub_exception(first)
        assert second.args == ("[groq#3]",)

    def test_notes_are_scrubbed(self, redactor: Redactor) -> None:
        error = ValueError("failed")
        error.add_note(f"while using {KEY}")
        redactor.scrub_exception(error)
        assert "mArKeD" not in printed(error)

    def test_the_members_of_a_group_are_scrubbed(self, redactor: Redactor) -> None:
        group = ExceptionGroup("several", [ValueError(f"bad {KEY}")])
        redactor.scrub_exception(group)
        assert "mArKeD" not in printed(group)
