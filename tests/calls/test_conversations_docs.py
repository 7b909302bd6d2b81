"""docs/conversations.md: its programs do what is written beside them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hfs_providers.testing import LoopbackServer, PromptCache

TEXT = (Path(__file__).parents[2] / "docs" / "conversations.md").read_text()
CONVERSATION, CHOICES, CLIENT, CACHED = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_programs_do_what_they_say(
    fresh_manager: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with LoopbackServer(answer=PromptCache()) as server:
        for name, value in server.env({"groq": 20}).items():
            monkeypatch.setenv(name, value)
        said: dict[str, Any] = {}

        def keys() -> list[str]:
            server.reset()
            exec(CONVERSATION.replace("...", "word " * 500), said)
            return [seen.key for seen in server.seen]

        assert len(set(keys())) == 1
        exec(CHOICES, said)
        affinities = [said[name]._hfs.options.affinity for name in ("model", "chat", "reports", "batch")]
        assert affinities == ["conversation", "session", "weekly reports", None]
        server.reset()
        for _ in range(2):
            exec(CLIENT.replace("Hello.", f"Hello {_}."), said)
        assert len({seen.key for seen in server.seen}) == 1
        exec(CACHED, said)
        assert re.search(r"groq#\d+: 512 of \d+ tokens were cached", capsys.readouterr().out)
