"""The errors: their tree, their fields, what they say, and that they survive a process boundary."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
from agno.exceptions import ContextWindowExceededError, ModelProviderError, ModelRateLimitError

from hfs_providers import (
    ChainExhaustedError,
    HfsProvidersError,
    KeyNotFoundError,
    KeyRejectedError,
    KeysExhaustedError,
    MissingKeyError,
    MissingSdkError,
    ModelCallError,
    ModelNotFoundError,
    ProviderError,
    ProviderUnavailableError,
    SettingsError,
    StreamInterruptedError,
    UnknownProviderError,
)
from hfs_providers.calls._keycycle import NoAvailableKeyError
from hfs_providers.calls.model_errors import ContextOverflowError
from hfs_providers.calls.verdicts import Verdict
from hfs_providers.errors import (
    ForwardingError,
    MissingDriverError,
    PluginConflictError,
    PluginContractError,
    PluginError,
    PluginLoadError,
    PoolExhaustedError,
    StoreError,
)

INSTALLED = ("cerebras", "groq", "gemini", "openrouter")


def exhausted(**changes: object) -> PoolExhaustedError:
    fields: dict[str, object] = {"total": 16, "limited": 2, "cooling": 11, "dead": 3, "free_in": 4.25, "timeout": 10.0}
    return PoolExhaustedError("groq", "qwen/qwen3-32b", **{**fields, **changes})  # type: ignore[arg-type]


def call(cls: type[ModelCallError], **fields: object) -> ModelCallError:
    common = {"provider": "groq", "model_id": "m", "status_code": 400, "key_id": "groq#3", "attempts": 2}
    return cls("it failed", **{**common, "verdict": Verdict("server_error", 500, None, "it failed"), **fields})  # type: ignore[arg-type]


EXAMPLES: dict[str, Callable[[], HfsProvidersError]] = {
    "HfsProvidersError": lambda: HfsProvidersError("failed"),
    "PluginError": lambda: PluginError("acme", "acme-llm", "is broken"),
    "PluginLoadError": lambda: PluginLoadError("acme", "acme-llm", "importing it raised ImportError"),
    "PluginConflictError": lambda: PluginConflictError("acme", None, "claimed twice"),
    "PluginContractError": lambda: PluginContractError("acme", "acme-llm", "has no hook"),
    "UnknownProviderError": lambda: UnknownProviderError("grok", INSTALLED),
    "ProviderUnavailableError": lambda: ProviderUnavailableError("groq", ["a", "b"], "do this"),
    "PoolExhaustedError": exhausted,
    "KeyNotFoundError": lambda: KeyNotFoundError("groq", ["groq#1", "groq#2"], "groq#9"),
    "MissingSdkError": lambda: MissingSdkError("gemini", "google-genai", "pip install 'hfs-providers[gemini]'"),
    "SettingsError": lambda: SettingsError("bad settings"),
    "StoreError": lambda: StoreError("/tmp/usage.db", "the disk is full"),
    "ForwardingError": lambda: ForwardingError("mysql://me@db/usage", "access is denied", "Grant it"),
    "MissingDriverError": lambda: MissingDriverError(
        "mysql://me@db/usage", "PyMySQL is missing", "Run: pip install 'hfs-providers[mysql]'"
    ),
    "MissingKeyError": lambda: MissingKeyError("groq", ["NUM_GROQ", "GROQ_API_KEY_1"]),
    "ModelCallError": lambda: call(ModelCallError),
    "KeyRejectedError": lambda: call(KeyRejectedError),
    "ContextOverflowError": lambda: call(ContextOverflowError),
    "ModelNotFoundError": lambda: call(ModelNotFoundError, successor="n"),
    "StreamInterruptedError": lambda: call(StreamInterruptedError, received="The answer is"),
    "ChainExhaustedError": lambda: ChainExhaustedError({"groq/m": "no key free for 9 s"}),
    "KeysExhaustedError": lambda: KeysExhaustedError(exhausted()),
    "KeysExhaustedError of all": lambda: KeysExhaustedError(
        exhausted(), reasons={"groq": "cooling", "gemini": "dead"}, provider="all", model_id="any"
    ),
}
every_error = pytest.mark.parametrize("make", EXAMPLES.values(), ids=EXAMPLES)


def test_every_class_of_the_tree_has_an_example() -> None:
    def below(cls: type) -> set[type]:
        return {cls}.union(*(below(child) for child in cls.__subclasses__()))

    ours = {cls for cls in below(HfsProvidersError) if cls.__module__.startswith("hfs_providers.core.")}
    assert ours - {type(make()) for make in EXAMPLES.values()} <= {ProviderError}


class TestTree:
    @pytest.mark.parametrize(
        ("cls", "parents"),
        [
            (PluginError, (HfsProvidersError,)),
            (PluginLoadError, (PluginError,)),
            (PluginConflictError, (PluginError,)),
            (PluginContractError, (PluginError,)),
            (ProviderError, (HfsProvidersError,)),
            (UnknownProviderError, (ProviderError, ValueError)),
            (ProviderUnavailableError, (ProviderError,)),
            (PoolExhaustedError, (ProviderError,)),
            (MissingSdkError, (ProviderError, ImportError)),
            (SettingsError, (HfsProvidersError,)),
            (MissingKeyError, (SettingsError,)),
            (ModelCallError, (HfsProvidersError, ModelProviderError)),
            (KeyRejectedError, (ModelCallError, ModelProviderError)),
            (ModelNotFoundError, (ModelCallError, ModelProviderError)),
            (StreamInterruptedError, (ModelCallError, ModelProviderError)),
            (ChainExhaustedError, (HfsProvidersError, ModelProviderError)),
            (ContextOverflowError, (ModelCallError, ContextWindowExceededError)),
            (KeysExhaustedError, (HfsProvidersError, ModelProviderError, ModelRateLimitError, NoAvailableKeyError)),
        ],
    )
    def test_a_class_stands_where_the_design_puts_it(self, cls: type, parents: tuple[type, ...]) -> None:
        assert all(issubclass(cls, parent) for parent in parents)

    def test_keycycle_s_own_name_for_an_exhausted_pool_catches_ours(self) -> None:
        import keycycle

        with pytest.raises(keycycle.NoAvailableKeyError):
            raise KeysExhaustedError(exhausted())


class TestPickling:
    @every_error
    @pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
    def test_an_error_survives_with_its_type_words_and_fields(
        self, make: Callable[[], HfsProvidersError], protocol: int
    ) -> None:
        error = make()
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is type(error)
        assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))

    @every_error
    def test_an_error_can_be_copied(self, make: Callable[[], HfsProvidersError]) -> None:
        error = make()
        again = copy.copy(error)
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))

    @every_error
    def test_an_error_says_something(self, make: Callable[[], HfsProvidersError]) -> None:
        assert str(make()).strip()
        assert type(make()).__name__ in repr(make())


class TestPluginErrors:
    def test_name_and_distribution_are_fields_and_words(self) -> None:
        error = PluginLoadError("acme", "acme-llm", "importing it raised ImportError: no x")
        assert (error.plugin, error.distribution) == ("acme", "acme-llm")
        assert str(error) == "plugin 'acme' (from acme-llm): importing it raised ImportError: no x"

    def test_without_a_distribution_none_is_named(self) -> None:
        assert str(PluginError("acme", None, "is broken")) == "plugin 'acme': is broken"


class TestUnknownProvider:
    def test_a_key_in_place_of_a_provider_is_not_shown(self) -> None:
        error = UnknownProviderError("gsk_0123456789abcdef0123456789abcdef", INSTALLED)
        assert "gsk_" not in f"{error}{error!r}{vars(error)}"
        assert "unknown provider. Installed: cerebras" in str(error)

    def test_it_lists_what_is_installed(self) -> None:
        error = UnknownProviderError("nonsense", INSTALLED)
        assert error.installed == INSTALLED
        assert all(name in str(error) for name in INSTALLED)

    @pytest.mark.parametrize(
        ("given", "nearest"),
        [
            ("grok", "groq"),
            ("Groq", "groq"),
            ("GROQ", "groq"),
            ("cerebra", "cerebras"),
            ("open-router", "openrouter"),
            ("gemni", "gemini"),
        ],
    )
    def test_it_suggests_the_nearest_name(self, given: str, nearest: str) -> None:
        error = UnknownProviderError(given, INSTALLED)
        assert error.suggestion == nearest
        assert f"Did you mean {nearest!r}?" in str(error)

    @pytest.mark.parametrize("given", ["nonsense", "", "x"])
    def test_it_suggests_nothing_where_nothing_is_near(self, given: str) -> None:
        error = UnknownProviderError(given, INSTALLED)
        assert error.suggestion is None
        assert "Did you mean" not in str(error)

    def test_where_nothing_is_installed_it_says_what_to_run(self) -> None:
        assert "hfs-providers doctor" in str(UnknownProviderError("groq", ()))


class TestProviderErrors:
    def test_unavailable_says_why_and_what_to_do(self) -> None:
        error = ProviderUnavailableError("groq", ["NUM_GROQ is not an integer"], "unset NUM_GROQ")
        assert (error.provider, error.reasons, error.remedy) == (
            "groq",
            ("NUM_GROQ is not an integer",),
            "unset NUM_GROQ",
        )
        assert "NUM_GROQ is not an integer" in str(error)
        assert "unset NUM_GROQ" in str(error)

    def test_missing_sdk_names_the_command(self) -> None:
        error = MissingSdkError("gemini", "google-genai", "pip install 'hfs-providers[gemini]'")
        assert (error.provider, error.distribution, error.install) == (
            "gemini",
            "google-genai",
            "pip install 'hfs-providers[gemini]'",
        )
        assert "Run: pip install 'hfs-providers[gemini]'" in str(error)

    def test_missing_key_names_the_variables(self) -> None:
        error = MissingKeyError("groq", ["NUM_GROQ", "GROQ_API_KEY_1"])
        assert (error.provider, error.variables) == ("groq", ("NUM_GROQ", "GROQ_API_KEY_1"))
        assert "NUM_GROQ" in str(error)
        assert "GROQ_API_KEY_1" in str(error)


class TestExhausted:
    def test_a_pool_s_error_counts_its_keys(self) -> None:
        text = str(exhausted())
        assert text == (
            "groq/qwen/qwen3-32b: no key free of 16 (2 limited, 11 cooling, 3 dead); the next is free in 4.2 s"
        )

    def test_a_pool_s_error_says_when_none_will_be_free(self) -> None:
        assert "none will become free by itself" in str(exhausted(dead=16, cooling=0, limited=0, free_in=None))

    def test_an_empty_pool_s_error_names_the_variables(self) -> None:
        text = str(PoolExhaustedError("acme-cloud", "m", total=0))
        assert "NUM_ACME_CLOUD" in text
        assert "ACME_CLOUD_API_KEY_1" in text

    def test_it_has_the_fields_that_keycycle_s_handlers_read(self) -> None:
        error = KeysExhaustedError(exhausted())
        assert (error.provider, error.model_id, error.wait, error.timeout, error.total_keys, error.cooling_down) == (
            "groq",
            "qwen/qwen3-32b",
            True,
            10.0,
            16,
            11,
        )
        assert not KeysExhaustedError(exhausted(timeout=0.0)).wait

    def test_it_has_the_fields_that_agno_s_handlers_read(self) -> None:
        error = KeysExhaustedError(exhausted())
        genuine = ModelRateLimitError("m", model_name="groq", model_id="qwen/qwen3-32b")
        assert {name: getattr(error, name) for name in vars(genuine) if name != "message"} == {
            name: value for name, value in vars(genuine).items() if name != "message"
        }
        assert error.message == str(error)

    def test_it_says_when_the_next_key_is_free(self) -> None:
        error = KeysExhaustedError(exhausted())
        assert error.free_in == 4.25
        assert "the next is free in" in str(error)

    def test_that_of_all_providers_has_every_reason(self) -> None:
        error = KeysExhaustedError(
            exhausted(), reasons={"groq": "groq cools", "gemini": "gemini is dead"}, provider="all", model_id="any"
        )
        assert (error.provider, error.model_id) == ("all", "any")
        assert error.reasons == {"groq": "groq cools", "gemini": "gemini is dead"}
        assert "groq cools" in str(error)
        assert "gemini is dead" in str(error)


class TestCallErrors:
    def test_a_call_s_error_has_its_fields(self) -> None:
        error = call(ModelCallError)
        assert (error.provider, error.model_id, error.kind, error.key_id, error.attempts, error.status_code) == (
            "groq",
            "m",
            "server_error",
            "groq#3",
            2,
            400,
        )

    def test_a_lost_model_names_itself_and_its_successor(self) -> None:
        error = call(ModelNotFoundError, model_id="old", successor="new")
        assert "'old'" in str(error)
        assert "'new'" in str(error)
        assert "hfs-providers models groq --live" in str(error)

    def test_an_interrupted_stream_keeps_what_was_received(self) -> None:
        error = call(StreamInterruptedError, received="The answer is")
        assert isinstance(error, StreamInterruptedError)
        assert error.received == "The answer is"


@pytest.mark.parametrize(
    "error",
    [
        MissingKeyError("groq", ["GROQ_API_KEY_1"]),
        MissingSdkError("groq", "groq", "pip install groq"),
        ProviderUnavailableError("groq", ["it could not be built"]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_keeps_a_provider_from_being_used_is_a_value_error(error: Exception) -> None:
    assert isinstance(error, ValueError)
    assert type(pickle.loads(pickle.dumps(error))) is type(error)
