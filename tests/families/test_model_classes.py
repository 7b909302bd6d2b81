"""Which family a model class belongs to, and what a class refuses that its plugin says."""

from __future__ import annotations

import pytest
from agno.models.message import Message
from agno.models.openai import OpenAIChat, OpenAILike, OpenAIResponses
from agno.models.openrouter import OpenRouter

from hfs_providers import ProviderManager
from hfs_providers.authoring import KeyedProvider, ModelDefault
from hfs_providers.errors import ProviderUnavailableError
from hfs_providers.families import FAMILIES
from hfs_providers.families.model_classes import SDKS, lacks_of, needed_of, sdk_of
from hfs_providers.testing.conformance import CAPABILITIES
from hfs_providers.testing.protocols import SPOKEN_BY, dialect_of


def test_a_class_is_known_by_those_that_it_inherits_from() -> None:
    assert sdk_of(OpenRouter) == SDKS["openai:OpenAIChat"]._replace(address=None)
    assert sdk_of(OpenAIResponses) == SDKS["openai:OpenAIResponses"]
    assert sdk_of(Message) is None


def test_a_class_of_the_same_name_elsewhere_is_not_taken_for_it() -> None:
    assert sdk_of(type("OpenAIChat", (), {})) is None


def test_every_family_of_a_class_exists_and_is_spoken() -> None:
    assert {sdk.client for sdk in SDKS.values()} <= {"own", *FAMILIES}
    assert SPOKEN_BY.keys() == FAMILIES.keys()
    assert {name for sdk in SDKS.values() for name in sdk.lacks} <= CAPABILITIES.keys()


def test_only_a_class_without_a_family_says_why() -> None:
    assert {name for name, sdk in SDKS.items() if sdk.why} >= {"ibm:WatsonX"}
    assert {sdk.client for sdk in SDKS.values() if sdk.why} == {"own"}


def test_an_sdk_that_adds_a_path_of_its_own_is_answered_there() -> None:
    paths = {"openai": "/v1/chat/completions", "groq": "/openai/v1/chat/completions"}
    for sdk, path in paths.items():
        dialect = dialect_of("acme", "stainless", sdk, False)
        assert dialect is not None
        assert dialect.read("POST", path, {}, {"model": "m"}) is not None
    assert dialect_of("acme", "own", "groq", False) is None


def test_what_a_class_sends_is_looked_at() -> None:
    class Silent(OpenAILike):
        def get_request_params(self, *args: object, **kwargs: object) -> dict[str, object]:  # type: ignore[override]
            return {}

    assert lacks_of(SDKS["openai:OpenAIChat"], Silent) == {"tools": "the model class sends no tools"}
    assert lacks_of(SDKS["openai:OpenAIChat"], OpenAIChat) == {}
    assert needed_of(OpenAIChat) == {}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"client": "ollama"}, ["takes no 'host'", "Set `client`"]),
        ({"model_params": {"temprature": 1}}, ["takes no 'temprature'", "Take it out of `model_params`"]),
        ({"stream_params": {"usage": True}}, ["takes no 'usage'", "`stream_params`"]),
    ],
    ids=["client", "model_params", "stream_params"],
)
def test_a_field_that_the_class_lacks_is_no_type_error(given: dict[str, object], words: list[str]) -> None:
    plugin = KeyedProvider(
        name="acme",
        model_class="agno.models.openai.like:OpenAILike",
        sdk="openai",
        base_url="https://acme.example",
        models=(ModelDefault("m"),),
        **given,  # type: ignore[arg-type]
    )
    env = {"NUM_ACME": "1", "ACME_API_KEY_1": "acme-0123456789"}
    with ProviderManager(env=env, plugins=[plugin]) as manager:
        [problem] = manager.problems
        assert (problem.provider, problem.level, manager.available_providers) == ("acme", "error", [])
        with pytest.raises(ProviderUnavailableError) as caught:
            manager.get_model("acme")
    assert [word for word in words if word not in str(caught.value)] == []
