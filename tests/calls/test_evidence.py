"""What is read of an SDK's error, at its bounds, and how a plugin's rules decide about it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from agno.models.openai.like import OpenAILike

from hfs_providers.calls.evidence import MAX_MESSAGE, chain_of, evidence_of, modules_of
from hfs_providers.calls.verdicts import Verdict, judge
from hfs_providers.contract.error_rules import ErrorRules, Evidence, Meaning


class OwnModel(OpenAILike):
    """A model class of a program's own, whose bugs are no provider's."""


def test_the_sdk_of_a_model_class_is_known_by_the_names_in_its_module() -> None:
    assert modules_of(OpenAILike) == {"openai"}
    assert modules_of(OwnModel) >= {"openai"}
    assert "tests" not in modules_of(OwnModel)


NOW = 1_795_262_400.0


class Refused(Exception):
    """An error as an SDK raises it."""

    def __init__(self, status: Any = None, body: Any = None, **fields: Any) -> None:
        super().__init__("in the SDK's words")
        self.status_code = status
        self.body = body
        self.__dict__.update(fields)


Refused.__module__ = "acme_sdk.errors"
ACME = ErrorRules(modules=("acme_sdk",))


def read(status: Any = None, body: Any = None, **fields: Any) -> Evidence:
    return evidence_of(Refused(status, body, **fields), NOW)


def verdict(status: Any = None, body: Any = None, rules: ErrorRules = ACME, **fields: Any) -> Verdict:
    return judge(Refused(status, body, **fields), rules, now=lambda: NOW)


class TestTheStatus:
    @pytest.mark.parametrize(
        ("status", "means"),
        [
            *[(status, "server_error") for status in (200, 299, 408, 409, 425, 499, 500, 504, 599)],
            *[(status, "bad_request") for status in (300, 399, 400, 404, 405, 418, 422, 501)],
            *[(status, "overloaded") for status in (498, 502, 503, 529)],
            *[(status, "rate_limited") for status in (403, 429)],
            *[(status, "dead") for status in (401, 402)],
            (410, "model_gone"),
            (413, "context_overflow"),
            (451, "refused"),
        ],
    )
    def test_alone_means(self, status: int, means: str) -> None:
        found = verdict(status, {"error": {"message": "no"}})
        assert (found.kind, found.status, found.credits) == (means, status, status == 402)

    @pytest.mark.parametrize(
        ("status", "inner", "read_as"),
        [
            (None, 429, 429),
            (200, 429, 429),
            (200, "503", 503),
            (399, 429, 429),
            (400, 429, 400),
            (500, 429, 500),
            (200, 399, 200),
            (200, 400, 400),
            (200, 599, 599),
            (200, 600, 200),
            (None, 17, None),
        ],
    )
    def test_of_a_good_answer_is_that_of_its_body(self, status: Any, inner: Any, read_as: int | None) -> None:
        assert read(status, {"error": {"code": inner}}).status == read_as
        assert read(status, {"error": {"status_code": inner, "code": "x"}}).status == read_as

    @pytest.mark.parametrize(
        ("status", "read_as"),
        [
            ("00429", 429),
            ("000429", None),
            (99, None),
            (100, 100),
            (599, 599),
            (600, None),
            ("429", 429),
            (True, None),
            ("4299999", None),
            ("٤٢٩", None),
        ],
    )
    def test_is_one_of_http(self, status: Any, read_as: int | None) -> None:
        assert read(status).status == read_as

    def test_is_looked_for_where_sdks_keep_it(self) -> None:
        class Response:
            status_code = 418

        class Other:
            status = 419

        assert read(response=Response()).status == 418
        assert read(response=Other()).status == 419
        assert read(None, code=420).status == 420
        other = Refused()
        other.status = 421  # type: ignore[attr-defined]
        assert evidence_of(other, NOW).status == 421
        assert read(422, response=Response()).status == 422

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (None, "server_error"),
            (200, "server_error"),
            (299, "server_error"),
            (300, "bad_request"),
            (399, "bad_request"),
            (400, "bad_request"),
            (499, "server_error"),
            (500, "server_error"),
            (505, "server_error"),
            (599, "server_error"),
        ],
    )
    def test_alone_has_a_meaning(self, status: int | None, kind: str) -> None:
        assert verdict(status, {"error": {"note": "nothing that is known"}}).kind == kind

    @pytest.mark.parametrize(
        ("status", "kind"), [(200, "empty"), (399, "empty"), (400, "bad_request"), (429, "rate_limited")]
    )
    def test_of_a_blank_body_says_whether_it_is_an_empty_answer(self, status: int, kind: str) -> None:
        assert verdict(status, " \n").kind == kind

    def test_404_is_about_the_model_only_where_the_body_repeats_it(self) -> None:
        assert verdict(404, {"error": {"code": 404}}).kind == "model_gone"
        assert verdict(404, {"error": {"code": 405}}).kind == "bad_request"
        assert verdict(404, {"error": {}}).kind == "bad_request"
        assert verdict(405, {"error": {"code": 404}}).kind == "bad_request"


class TestTheBody:
    def test_is_unwrapped_four_times_at_most(self) -> None:
        body: Any = {"code": "x"}
        for _ in range(4):
            body = {"error": body}
        assert read(400, body).error == {"code": "x"}
        assert read(400, {"error": body}).error == {"error": {"code": "x"}}

    def test_may_be_a_list(self) -> None:
        assert read(400, []).error == {}
        assert read(400, [{"error": {"code": "x"}}, {"error": {"code": "y"}}]).error == {"code": "x"}

    @pytest.mark.parametrize("text", ["{nope", "[" * 100_000, "plain"])
    def test_that_is_no_json_is_a_text(self, text: str) -> None:
        assert read(400, text).body == text
        assert read(400, text).error == {}

    def test_that_is_too_large_is_not_read(self) -> None:
        large = json.dumps({"error": {"code": "x", "fill": "x" * 1_000_000}})
        assert read(400, large).body is None
        fitting = large.replace("x" * 1_000_000, "x" * 900_000)
        assert read(400, fitting).error["code"] == "x"

    def test_of_a_million_characters_is_read(self) -> None:
        head = '{"code": "x", "fill": "'
        fitting = head + "x" * (1_000_000 - len(head) - 2) + '"}'
        assert read(400, fitting).error["code"] == "x"
        assert read(400, fitting + " ").body is None

    def test_of_an_sdk_that_keeps_a_part_as_text_is_the_whole_one_of_the_response(self) -> None:
        class Response:
            content = b'{"code": "known", "error": "words"}'

        assert read(400, "words", response=Response()).error["code"] == "known"
        assert read(400, "words").body == "words"

    def test_is_found_under_other_names(self) -> None:
        class Response:
            text = '{"code": "known"}'

        assert read(400, details={"code": "known"}).error == {"code": "known"}
        assert read(400, response=Response()).error == {"code": "known"}


class TestTheMessage:
    def test_is_the_providers_then_the_bodys_then_the_sdks(self) -> None:
        assert verdict(400, {"error": {"message": "said"}}).message == "said"
        assert verdict(400, {"error": "said"}).message == "said"
        assert verdict(400, "plain text").message == "plain text"
        assert verdict(400, " ").message == "in the SDK's words"
        assert verdict(400, {"error": {"message": ""}}).message == "in the SDK's words"
        assert verdict(400, {"error": {"message": ["no text"]}}).message == "in the SDK's words"
        assert verdict(400, {"error": {"message": ["no text"]}}).kind == "bad_request"

    @pytest.mark.parametrize(("given", "shown"), [("told", "told"), ("", "words"), (5, "words"), (None, "words")])
    def test_of_an_error_is_what_it_gives_as_its_message(self, given: Any, shown: str) -> None:
        error = RuntimeError("words")
        error.message = given  # type: ignore[attr-defined]
        assert judge(error).message == shown

    def test_has_an_end(self) -> None:
        long = "x" * (MAX_MESSAGE + 1)
        for body in (long, {"message": long}, {"message": "a", "more": long}):
            assert len(verdict(400, body, ErrorRules(modules=("acme_sdk",), message_fields=("more",))).message) == 2000
        assert len(judge(RuntimeError(long)).message) == 2000

    def test_takes_only_text_from_further_fields(self) -> None:
        rules = ErrorRules(message_fields=("more", "none"))
        assert verdict(400, {"message": "a", "more": ["b", 3, "", "c"]}, rules).message == "a: b: c"

    def test_of_an_error_without_words_is_its_name(self) -> None:
        assert judge(RuntimeError()).message == "RuntimeError"


class TestWhatCannotBeRead:
    @pytest.mark.parametrize(
        ("name", "fields", "kind"),
        [
            ("APIResponseValidationError", {"body": " "}, "empty"),
            ("APIResponseValidationError", {"body": "<html>"}, "server_error"),
            ("APIResponseValidationError", {"body": None}, "server_error"),
            ("JSONDecodeError", {"doc": " \n"}, "empty"),
            ("JSONDecodeError", {"doc": "{nope"}, "server_error"),
            ("JSONDecodeError", {"body": " ", "obj": " "}, "server_error"),
        ],
    )
    def test_is_an_empty_answer_where_it_was_blank(self, name: str, fields: dict[str, Any], kind: str) -> None:
        error = type(name, (Exception,), {"__module__": "openai.reading"})("broken")
        error.__dict__.update(fields)
        assert (judge(error).kind, judge(error).sent) == (kind, True)

    def test_keeps_its_status(self) -> None:
        error = type("APIResponseValidationError", (Exception,), {"__module__": "openai", "status_code": 207})("broken")
        assert judge(error).status == 207


class TestTheChain:
    def test_is_followed_for_twenty_links(self) -> None:
        first = RuntimeError("0")
        last: BaseException = first
        for number in range(1, 25):
            last.__cause__ = RuntimeError(str(number))
            last = last.__cause__
        assert [str(link) for link in chain_of(first)] == [str(number) for number in range(20)]

    def test_goes_by_the_cause_before_the_context(self) -> None:
        error, cause, context = RuntimeError("e"), RuntimeError("cause"), RuntimeError("context")
        error.__context__ = context
        assert [*chain_of(error)] == [error, context]
        error.__cause__ = cause
        assert [*chain_of(error)] == [error, cause]


NESTED = {"a": {"b": [{"c": 1}, {"c": [2, 3]}, {"d": None}, "text"]}, "none": None, "list": list(range(60))}


class TestPaths:
    @pytest.mark.parametrize(
        ("path", "found"),
        [("a.b.c", [1, 2, 3]), ("none", []), ("nowhere.at.all", []), ("a.b.d", []), ("list", list(range(50)))],
    )
    def test_give_what_is_there(self, path: str, found: list[Any]) -> None:
        assert read(400, {"error": NESTED}).values(path) == found

    @pytest.mark.parametrize(
        ("path", "there"), [("none", True), ("a.b.d", True), ("a.b.e", False), ("a", True), ("b", False), ("a.b", True)]
    )
    def test_say_whether_a_field_is_there(self, path: str, there: bool) -> None:
        assert read(400, {"error": NESTED}).has(path) == there


GONE, LIMITED, REFUSED, DEAD = (Meaning(kind) for kind in ("model_gone", "rate_limited", "refused", "dead"))  # type: ignore[arg-type]


class TestRules:
    def test_are_read_from_the_first_field_to_the_last(self) -> None:
        error = {"code": "c", "type": "t", "first": {"at": "f"}, "second": "s"}
        fields = {"first.at": {"f": REFUSED}, "second": {"s": GONE}}
        decided = Meaning("overloaded")
        every = {
            "codes": {"c": LIMITED, "t": DEAD},
            "statuses": {418: Meaning("context_overflow")},
            "modules": ("acme_sdk",),
        }

        def found(**rules: Any) -> tuple[str, str | None]:
            seen = verdict(418, {"error": error}, ErrorRules(**{**every, **rules}))
            return seen.kind, seen.code

        assert found(fields=fields, decide=lambda evidence: decided) == ("overloaded", "f")
        assert found(fields=fields, decide=lambda evidence: None) == ("refused", "f")
        assert found(fields={"second": fields["second"]}) == ("model_gone", "s")
        assert found() == ("rate_limited", "c")
        assert found(codes={"t": DEAD}) == ("dead", "t")
        assert found(codes={}) == ("context_overflow", "c")
        assert found(codes={}, statuses={}) == ("bad_request", "c")

    def test_go_before_the_general_ones(self) -> None:
        body = {"error": {"code": "invalid_api_key"}}
        assert verdict(401, body).kind == "dead"
        assert verdict(401, body, ErrorRules(codes={"invalid_api_key": REFUSED})).kind == "refused"
        assert verdict(401, body, ErrorRules(statuses={401: REFUSED})).kind == "refused"

    @pytest.mark.parametrize("wrong", [lambda evidence: 1 / 0, lambda evidence: "dead", lambda evidence: ("dead",)])
    def test_that_fail_leave_the_decision_to_the_others(self, wrong: Any) -> None:
        rules = ErrorRules(decide=wrong, codes={"x": GONE})
        assert verdict(400, {"error": {"code": "x"}}, rules).kind == "model_gone"

    @pytest.mark.parametrize("kind", ["rate_limited", "overloaded", "server_error"])
    def test_may_say_how_long_to_wait(self, kind: Any) -> None:
        def waits(seconds: Any, **headers: str) -> float | None:
            rules = ErrorRules(statuses={418: Meaning(kind, retry_after=seconds)})
            return verdict(418, {"error": {}}, rules, headers=headers).retry_after

        assert waits(9) == 9.0
        assert waits(None) is None
        assert waits(-1) is None
        assert waits(2 * 86_400.0) == 86_400.0
        assert waits(9, **{"retry-after": "3"}) == 9.0
        assert waits(9, **{"retry-after": "30"}) == 30.0

    def test_of_what_no_wait_helps_name_none(self) -> None:
        rules = ErrorRules(statuses={418: Meaning("refused", retry_after=9)})
        assert verdict(418, {}, rules, headers={"retry-after": "3"}).retry_after is None

    def test_find_waits_in_the_body(self) -> None:
        rules = ErrorRules(wait_fields=("waits.seconds",), header_fields=("headers", "answer.headers"))
        assert verdict(429, {"error": {"waits": [{"seconds": 3}, {"seconds": "7s"}]}}, rules).retry_after == 7.0
        assert (
            verdict(429, {"error": {"headers": {"Retry-After": "5"}, "waits": {"seconds": 2}}}, rules).retry_after
            == 5.0
        )
        assert verdict(429, {"error": {"answer": {"headers": {"retry-after": "4"}}}}, rules).retry_after == 4.0
        assert verdict(429, {"error": {"code": "x"}}, rules).retry_after is None

    def test_say_of_a_limit_and_of_a_lost_model_whose_it_is(self) -> None:
        for kind in ("rate_limited", "model_gone"):
            for scope in ("model", "key"):
                rules = ErrorRules(statuses={418: Meaning(kind, scope)})  # type: ignore[arg-type]
                assert verdict(418, {}, rules).scope == scope
        unpaid = verdict(418, {}, ErrorRules(statuses={418: Meaning("dead", credits=True)}))
        assert (unpaid.scope, unpaid.credits) == ("key", True)

    def test_name_the_errors_that_bring_no_answer(self) -> None:
        rules = ErrorRules(exceptions={"Refused": Meaning("transport")}, modules=("acme_sdk",))
        assert verdict(rules=rules).kind == "transport"
        assert verdict(rules=ErrorRules(exceptions=rules.exceptions)).kind == "local"
        assert verdict(400, rules=rules).kind == "bad_request"

    def test_name_the_functions_that_read_an_answer(self) -> None:
        frames: dict[str, Any] = {"__name__": "acme_sdk.reading"}
        exec("def read_it():\n    raise KeyError('choices')", frames)
        error = RuntimeError("wrapped")
        try:
            frames["read_it"]()
        except KeyError as broken:
            error.__cause__ = broken
        assert judge(error, ErrorRules(modules=("acme_sdk",), readers=("read_it",))).kind == "server_error"
        assert judge(error, ACME).kind == "local"
        assert judge(error, ErrorRules(readers=("read_it",))).kind == "local"

    def test_know_numbers_as_text_and_nothing_that_is_no_name(self) -> None:
        rules = ErrorRules(codes={"17": GONE, "True": DEAD, "1.5": DEAD, "x" * 100: REFUSED})
        assert verdict(400, {"code": 17}, rules).kind == "model_gone"
        assert verdict(400, {"code": "17"}, rules).kind == "model_gone"
        assert verdict(400, {"code": True}, rules).kind == "bad_request"
        assert verdict(400, {"code": 1.5}, rules).kind == "bad_request"
        assert verdict(400, {"code": "x" * 101}, rules).code == "x" * 100
