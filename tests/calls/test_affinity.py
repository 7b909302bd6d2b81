"""What tells a conversation, and that its calls keep their key however they are made."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agno.agent import Agent
from agno.media import File, Image
from agno.models.message import Message

from hfs_providers import ProviderManager, get_model
from hfs_providers.calls.affinity import affinity_of_body, affinity_of_call
from hfs_providers.testing import LoopbackServer, PromptCache, RateLimited, ServerError
from tests.fallback.chains import WAYS, ask

KEYS = 12


def messages(system: Any = "Be brief.", user: Any = "hello", *later: Message, **of_the_user: Any) -> list[Message]:
    return [Message(role="system", content=system), Message(role="user", content=user, **of_the_user), *later]


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def told(said: Any, tools: Any = None) -> int | None:
    return affinity_of_call("conversation", said, tools)


class TestAnAffinity:
    """By default it is told by what begins the conversation."""

    def test_is_the_same_in_every_process_and_version(self) -> None:
        # Else processes would not agree, and every upgrade would empty all caches.
        assert told(messages(), [tool("look"), {"type": "web_search"}]) == 0x58812A5EE571717A
        assert affinity_of_call("a name", ()) == 0x36E96C62633613D6

    def test_stays_while_the_conversation_goes_on(self) -> None:
        later = (Message(role="assistant", content="hi"), Message(role="user", content="and?"))
        assert told(messages(user="hello")) == told(messages("Be brief.", "hello", *later))

    @pytest.mark.parametrize(
        "other",
        [
            messages("Be brief"),
            messages(user="hello!"),
            messages("Be brief.hello", ""),
            messages("", "Be brief.hello"),
            messages("hello", "Be brief."),
            messages(None, "hello"),
            messages("Be brief." + "x" * 10_000),
            messages(images=[Image(url="https://example.com/1.png")]),
        ],
    )
    def test_is_another_where_it_begins_otherwise(self, other: list[Message]) -> None:
        assert told(other) != told(messages())

    @pytest.mark.parametrize("place", [0, 5_000, 9_999])
    def test_tells_long_texts_apart_by_every_letter(self, place: int) -> None:
        text = "x" * 10_000
        other = f"{text[:place]}y{text[place + 1 :]}"
        for of in (messages, lambda text: messages(user=text), lambda text: messages(user=[{"text": text}])):
            assert told(of(text)) != told(of(other))  # type: ignore[operator]

    def test_is_told_by_the_names_of_tools_alone(self) -> None:
        assert told(messages(), [tool("look")]) == told(messages(), [tool("look", description="at the time: 12:00")])
        several = [[tool("look")], [tool("say")], [tool("look"), tool("say")], [tool("looksay")], [{"type": "look"}]]
        assert len({told(messages(), tools) for tools in several}) == 4

    def test_knows_tools_of_other_kinds(self) -> None:
        class Made:
            name = "look"

        named = (Made(), {"name": "look"}, {"type": "look"}, tool("look"))
        assert len({told(messages(), [each]) for each in named}) == 1

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_is_told_by_length_and_head_of_media(self, kind: Callable[[bytes], Any]) -> None:
        def of(content: bytes) -> int | None:
            return told(messages(files=[File(content=kind(content))]))

        data = bytes(range(256)) * 100
        assert of(data) == of(data[:64] + bytes(len(data) - 64))
        assert of(data) != of(data[:-1])
        assert of(data) != of(data[:63] + b"x" + data[64:])

    def test_is_told_by_the_place_of_media(self, tmp_path: Path) -> None:
        kinds = [{"url": "https://example.com/" + "a" * 80}, {"url": "https://example.com/" + "a" * 79 + "b"}]
        kinds += [{"filepath": tmp_path / "1"}, {"filepath": tmp_path / "2"}]  # type: ignore[list-item]
        found = {told(messages(images=[Image(**kind)])) for kind in kinds}  # type: ignore[arg-type]
        # Agno gives each an id by chance.
        assert found == {told(messages(images=[Image(**kind)])) for kind in kinds}  # type: ignore[arg-type]
        assert len(found) == 4

    def test_is_told_by_parts(self) -> None:
        def of(image: str, **more: Any) -> int | None:
            parts = [{"type": "text", "text": "look", **more}, {"type": "image_url", "image_url": {"url": image}}]
            return told([{"role": "user", "content": parts}])

        data = "data:image/png;base64," + "A" * 4_000
        assert of(data) == of(data[:-1] + "B") != of(data + "A")
        assert of("https://example.com/a.png") != of("https://example.com/b.png")
        assert of(data, cache_control={"type": "ephemeral"}) == of(data)
        assert told(messages(user=["ab", "c"])) != told(messages(user=["a", "bc"]))

    def test_is_none_where_content_is_nested_too_deeply(self) -> None:
        content: list[Any] = []
        content.append(content)
        assert told([{"role": "user", "content": content}]) is None

    def test_takes_any_text(self) -> None:
        assert told(messages("\udcff", "\0")) is not None
        assert told(messages(["a", None, 1, {"text": None}])) != told(messages(["b"]))

    @pytest.mark.parametrize("said", [[], [Message(role="assistant", content="hi")], ["hello"], [None]])
    def test_is_none_where_nothing_begins(self, said: list[Any]) -> None:
        assert told(said) is None

    def test_is_told_by_a_name_or_a_session_instead(self) -> None:
        named = affinity_of_call("a name", messages())
        assert named == affinity_of_call("a name", messages("other")) != affinity_of_call("another", messages())
        assert affinity_of_call("session", messages(), session="a name") == named
        assert affinity_of_call("session", messages()) == told(messages())
        assert affinity_of_call(None, messages(), session="a name") is None


class TestABody:
    SAID = (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
    )

    def test_tells_what_its_messages_tell(self) -> None:
        tools = [tool("look")]
        assert affinity_of_body({"messages": self.SAID, "tools": tools}) == told(messages(), tools)

    @pytest.mark.parametrize(
        "body",
        [
            {"input": "hello", "instructions": "Be brief."},
            {"input": [{"role": "user", "content": "hello"}], "instructions": "Be brief."},
            {"messages": [{"role": "user", "content": "hello"}], "system": "Be brief."},
        ],
    )
    def test_may_be_of_another_endpoint(self, body: dict[str, Any]) -> None:
        assert affinity_of_body(body) == told(messages())

    def test_may_name_it(self) -> None:
        named = affinity_of_call("ann", ())
        assert affinity_of_body({"messages": self.SAID, "user": "ann"}) == named
        assert affinity_of_body({"messages": self.SAID, "user": "bob", "prompt_cache_key": "ann"}) == named
        assert affinity_of_body({"messages": self.SAID, "user": "bob"}, "ann") == named
        assert affinity_of_body({"messages": self.SAID, "user": "bob"}, None) is None

    @pytest.mark.parametrize(
        "body", [{}, {"input": ["a", "b"]}, {"input": [1, 2]}, {"messages": 5}, {"messages": [{"role": ["user"]}]}]
    )
    def test_of_no_conversation_has_none(self, body: dict[str, Any]) -> None:
        assert affinity_of_body(body) is None

    def test_is_read_only_where_it_can_be_read_again(self) -> None:
        said = iter(self.SAID)
        assert affinity_of_body({"messages": said}) is None
        assert len(list(said)) == 2
        # What an SDK takes for a field that is not given.
        assert affinity_of_body({"messages": self.SAID, "tools": object(), "user": object()}) == told(messages())


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(answer=PromptCache()) as server:
        yield server


@pytest.fixture
def manager(server: LoopbackServer) -> Iterator[ProviderManager]:
    env = {**server.env(dict.fromkeys(("groq", "cerebras", "gemini", "openrouter"), KEYS)), "GROQ_LIMITS": "none"}
    with ProviderManager(env=env) as manager:
        for wrapper in manager.wrappers.values():
            wrapper.backend.sleep = lambda seconds: None
        yield manager


def used(server: LoopbackServer) -> list[str]:
    """The keys of the requests, in their order."""
    return [seen.key for seen in server.seen]


def turns(model: Any, subject: str, way: str = "sync", count: int = 3) -> None:
    """A conversation of some turns."""
    said = messages("Be brief.", f"about {subject}")
    for _ in range(count):
        ask(model, way, said)
        said.append(Message(role="user", content="go on"))


class TestARotatingModel:
    @pytest.mark.parametrize("way", WAYS)
    def test_keeps_the_key_of_each_conversation(
        self, manager: ProviderManager, server: LoopbackServer, way: str
    ) -> None:
        model = manager.get_model("groq")
        for subject in "abcdef":
            turns(model, subject, way)
        keys = used(server)
        assert keys[::3] == keys[1::3] == keys[2::3]
        assert len(set(keys)) > 2

    def test_tells_conversations_apart_by_tools(self, manager: ProviderManager, server: LoopbackServer) -> None:
        model = manager.get_model("groq")
        for name in "abcdef":
            model.invoke(messages(), Message(role="assistant"), tools=[tool(name)])
        assert len(set(used(server))) > 2

    def test_spreads_calls_without_affinity(self, manager: ProviderManager, server: LoopbackServer) -> None:
        turns(manager.get_model("groq", affinity=None), "a", count=KEYS)
        assert len(set(used(server))) == KEYS

    def test_keeps_one_key_for_a_name(self, manager: ProviderManager, server: LoopbackServer) -> None:
        for subject in "abc":
            turns(manager.get_model("groq", affinity="mine"), subject)
        assert len(set(used(server))) == 1

    def test_keeps_one_key_for_a_session(self, manager: ProviderManager, server: LoopbackServer) -> None:
        agent = Agent(model=manager.get_model("groq", affinity="session"), telemetry=False)
        for session in ("one", "two"):
            for subject in "abc":
                agent.run(subject, session_id=session)
        keys = used(server)
        assert len(set(keys[:3])) == len(set(keys[3:])) == 1
        assert keys[0] != keys[3]

    def test_moves_on_after_a_refusal_and_comes_back(self, manager: ProviderManager, server: LoopbackServer) -> None:
        model, pool = manager.get_model("groq"), manager.wrappers["groq"].pool
        turns(model, "a", count=1)
        own = used(server)[0]
        server.script("groq", own, [RateLimited(retry_after=600)])
        turns(model, "a")
        other = used(server)[-1]
        assert used(server) == [own, own, other, other, other]
        pool.revive(next(each.id for each in pool.credentials if each.secret and each.secret.reveal() == own))
        turns(model, "a", count=1)
        assert used(server)[-1] == own != other

    def test_repeats_a_failed_attempt_with_another_key(self, manager: ProviderManager, server: LoopbackServer) -> None:
        model = manager.get_model("groq")
        turns(model, "a", count=1)
        own = used(server)[0]
        server.script("groq", own, [], then=ServerError(500))
        turns(model, "a", count=1)
        assert [key == own for key in used(server)] == [True, True, False]

    def test_is_pinned_to_the_key_that_was_named(self, manager: ProviderManager, server: LoopbackServer) -> None:
        for number in (1, 2, 3):
            turns(manager.get_model("groq", key_id=f"groq#{number}"), "a", count=2)
        keys = used(server)
        assert keys[::2] == keys[1::2]
        assert len(set(keys)) == 3

    @pytest.mark.parametrize("affinity", [5, b"name", True])
    def test_takes_a_text(self, manager: ProviderManager, affinity: Any) -> None:
        with pytest.raises(TypeError, match="affinity must be a str or None"):
            manager.get_model("groq", affinity=affinity)

    def test_keeps_its_affinity_when_it_is_pickled(self, monkeypatch: pytest.MonkeyPatch, server: Any) -> None:
        for name, value in server.env({"groq": 2}).items():
            monkeypatch.setenv(name, value)
        model = pickle.loads(pickle.dumps(get_model("groq", affinity="mine")))
        assert model._hfs.options.affinity == "mine"

    @pytest.mark.parametrize("provider", ["groq", "cerebras", "gemini", "openrouter"])
    @pytest.mark.parametrize("way", ["sync", "astream"])
    def test_reads_the_beginning_from_the_provider_s_cache(
        self, manager: ProviderManager, server: LoopbackServer, provider: str, way: str
    ) -> None:
        rows: list[Any] = []
        manager.observe(lambda event: rows.append(event.usage) if event.usage is not None else None)
        model = manager.get_model(provider)
        for _ in range(2):
            ask(model, way, messages("word " * 400))
        assert [row.tokens_cached for row in rows] == [0, 384]


class TestAChain:
    def test_gives_each_entry_the_same_affinity(self, manager: ProviderManager, server: LoopbackServer) -> None:
        schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
        chain = manager.get_chain("groq/llama-3.3-70b-versatile", "groq/openai/gpt-oss-120b", "groq/other")
        server.script("groq", "*", [ServerError(500), ServerError(500)])
        chain.response(messages=messages(), response_format=schema)
        assert len(used(server)) == 3
        # What describes the schema to models that know none does not count.
        chain.response(messages=messages())
        assert len(set(used(server))) == 1

    @pytest.mark.parametrize("way", WAYS)
    def test_keeps_the_key_of_each_conversation(
        self, manager: ProviderManager, server: LoopbackServer, way: str
    ) -> None:
        chain = manager.get_chain("groq", "cerebras")
        for subject in "abcdef":
            turns(chain, subject, way)
        keys = used(server)
        assert keys[::3] == keys[1::3] == keys[2::3]
        assert len(set(keys)) > 2

    def test_takes_the_affinity_of_its_entries(self, manager: ProviderManager, server: LoopbackServer) -> None:
        turns(manager.get_chain("groq", "cerebras", affinity=None), "a", count=KEYS)
        assert len(set(used(server))) == KEYS


class TestAClient:
    def complete(self, client: Any, subject: str, **more: Any) -> None:
        said: list[Any] = [{"role": "user", "content": subject}]
        for _ in range(3):
            answer = client.chat.completions.create(model="m", messages=said, **more)
            said += [answer.choices[0].message, {"role": "user", "content": "go on"}]

    def test_keeps_the_key_of_each_conversation(self, manager: ProviderManager, server: LoopbackServer) -> None:
        client = manager.wrappers["groq"].get_openai_client()
        for subject in "abcdef":
            self.complete(client, subject)
        keys = used(server)
        assert keys[::3] == keys[1::3] == keys[2::3]
        assert len(set(keys)) > 2

    def test_takes_its_name_from_the_call(self, manager: ProviderManager, server: LoopbackServer) -> None:
        client = manager.wrappers["groq"].get_openai_client()
        for subject in "abcdef":
            self.complete(client, subject, user="ann")
        assert len(set(used(server))) == 1

    def test_spreads_calls_without_affinity(self, manager: ProviderManager, server: LoopbackServer) -> None:
        client = manager.wrappers["groq"].get_openai_client(affinity=None)
        for _ in range(KEYS // 3):
            self.complete(client, "a")
        assert len(set(used(server))) == KEYS

    def test_of_tasks_does_so_too(self, manager: ProviderManager, server: LoopbackServer) -> None:
        async def complete() -> None:
            client = manager.wrappers["groq"].get_async_openai_client()
            for subject in "abcabc":
                await client.chat.completions.create(model="m", messages=[{"role": "user", "content": subject}])

        asyncio.run(complete())
        assert used(server)[:3] == used(server)[3:]


def test_an_exchange_keeps_the_key_of_its_conversation(manager: ProviderManager) -> None:
    async def send(exchange: Any) -> str:
        return str(exchange.credential.id)

    def keys(**options: Any) -> set[str]:
        wrapper = manager.wrappers["groq"]
        bodies = [{"messages": [{"role": "user", "content": "hello"}]}] * KEYS
        return {asyncio.run(wrapper.exchange("m", body=body, **options).run(send)) for body in bodies}

    assert len(keys()) == 1
    assert len(keys(affinity=None)) == KEYS
