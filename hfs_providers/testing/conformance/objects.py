"""Checks of the model as an object (copies, pickles, no change by a call), and that no key is ever shown."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
from agno.agent import Agent

from hfs_providers import KeysExhaustedError, ProviderManager
from hfs_providers.authoring import Event
from hfs_providers.testing.conformance.base import Base, ask, needs, of_type
from hfs_providers.testing.scripts import Forbidden, RateLimited, ServerError, Unauthorized
from hfs_providers.testing.server import LoopbackServer

_UNPICKLE = """
import pickle, sys
from agno.models.message import Message
with open(sys.argv[1], "rb") as file:
    model = pickle.load(file)
print(model.system_prompt, "|", model.response(messages=[Message(role="user", content="hello")]).content)
"""


class ObjectChecks(Base):
    """See `ProviderConformance`."""

    def test_the_model_is_of_the_class_that_the_plugin_names(self, manager: ProviderManager) -> None:
        model = manager.get_model(self.name)
        # Agno reads the name of a model's class.
        assert type(model).__name__ == self._wrapper(manager).model_class.__name__
        assert isinstance(model, self._wrapper(manager).model_class)

    @pytest.mark.parametrize("how", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
    def test_a_copy_shares_the_pool(self, manager: ProviderManager, server: LoopbackServer, how: Any) -> None:
        server.script(self.name, "*", [Unauthorized()])
        ask(how(manager.get_model(self.name)))
        assert self._states(manager).count("dead") == 1

    def test_no_model_is_written_to_by_a_call(self, manager: ProviderManager) -> None:
        model = manager.get_model(self.name)
        before = dict(model.__dict__)
        ask(model)
        assert model.__dict__ == before

    def test_a_model_takes_no_key_of_its_own(self, manager: ProviderManager) -> None:
        with pytest.raises(TypeError, match="api_key"):
            manager.get_model(self.name, api_key="anything")

    def test_a_model_takes_no_key_from_the_process(
        self, manager: ProviderManager, server: LoopbackServer, keys: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(f"{self.upper}_API_KEY", "key-of-the-process")
        model = manager.get_model(self.name)
        ask(model)
        assert "key-of-the-process" not in repr(model.__dict__)
        assert set(server.hits(self.name)) < set(keys)

    def test_a_model_of_an_explicit_environment_refuses_to_be_pickled(self, manager: ProviderManager) -> None:
        with pytest.raises(TypeError, match="explicit environment"):
            pickle.dumps(manager.get_model(self.name))

    def test_a_pickled_model_serves_in_another_process_and_holds_no_key(
        self, env: dict[str, str], keys: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self._in_the_process(env, monkeypatch)
        monkeypatch.chdir(tmp_path)
        with ProviderManager() as manager:
            data = pickle.dumps(manager.get_model(self.name, system_prompt="be brief"))
        assert self._keyless() or not any(key.encode() in data for key in keys)
        (tmp_path / "model").write_bytes(data)
        done = subprocess.run(  # noqa: S603  the program is the one above
            [sys.executable, "-c", _UNPICKLE, str(tmp_path / "model")], capture_output=True, text=True, timeout=600
        )
        assert done.stdout.startswith("be brief | "), done.stderr
        assert "hello" in done.stdout

    @needs("async")
    def test_a_deep_copy_of_an_agent_serves(self, manager: ProviderManager) -> None:
        agent = Agent(model=manager.get_model(self.name), telemetry=False).deep_copy()
        assert "hello" in str(agent.run("hello").content)

    # Secrets

    @pytest.mark.parametrize(
        "step",
        [
            Unauthorized(echo_key=True),
            Forbidden(echo_key=True),
            RateLimited(echo_key=True),
        ],
        ids=of_type,
    )
    def test_no_key_is_shown(
        self,
        manager: ProviderManager,
        server: LoopbackServer,
        keys: list[str],
        events: list[Event],
        step: Any,
        capfd: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        if self._keyless():
            pytest.skip(f"{self.name} has endpoints instead of keys")
        server.script(self.name, "*", [ServerError(500, echo_key=True)], then=step)
        caplog.set_level("DEBUG")
        model = manager.get_model(self.name, affinity=None)
        with pytest.raises(KeysExhaustedError) as caught:
            ask(model)
        agent_run = Agent(model=model, telemetry=False).run("hello")
        shown = {
            "traceback": "".join(traceback.format_exception(caught.value)),
            "error": repr(caught.value) + str(vars(caught.value)),
            "pickled error": repr(pickle.dumps(caught.value)),
            "run": repr(agent_run),
            "model": repr(model) + repr(model.__dict__),
            "manager": repr(manager)
            + repr(manager.wrappers)
            + repr(manager.inventory)
            + repr(manager.environment_status),
            "wrapper": repr(self._wrapper(manager).__dict__),
            "health": repr(manager.health(self.name)),
            "events": repr(events),
            "logs": caplog.text,
            "output": "".join(capfd.readouterr()),
        }
        parts = {key[:12] for key in keys} | {key[-6:] for key in keys}
        assert [where for where, text in shown.items() if any(part in text for part in parts)] == []
