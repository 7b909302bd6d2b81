"""Which fields a model class has, told without importing it."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from agno.models.openai.like import OpenAILike

from hfs_providers.clients import model_fields
from hfs_providers.clients.model_fields import known_fields

FILES = {
    "__init__.py": "raise SystemExit('imported')",
    "public.py": "try:\n    from made_up.chat import Chat as Shown\nexcept ImportError:\n    class Shown: ...\n",
    "chat.py": """
from abc import ABC
from .base import (
    Base,  # the base
)
class Chat(Base["Any"], ABC):
    '''It says

unindented: words.
    '''
    def method(self): ...
    own: int = 1
    plain = 2
""",
    "base.py": "from typing import Generic\nclass Base(Generic[T], metaclass=M):\n\tid: str; base_url : str\n",
    "twice.py": "class Chat:\n    a: int\nclass Chat:\n    b: int\n",
    "either.py": "if x:\n    from made_up.chat import Chat\nelse:\n    from made_up.base import Base as Chat\n",
    "lost.py": "from made_up.nowhere import Base\nclass Chat(Base):\n    a: int\n",
    "round.py": "from made_up.trip import Chat\n",
    "trip.py": "from made_up.round import Chat\n",
    "made.py": "class Chat(make()):\n    a: int\nclass Dotted(a.b):\n    a: int\nclass Self(Self):\n    a: int\n",
}


@pytest.fixture(autouse=True)
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "made_up"
    package.mkdir()
    for name, source in FILES.items():
        (package / name).write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    model_fields._sources.cache_clear()


@pytest.mark.parametrize("path", ["made_up.chat:Chat", "made_up.public:Shown"])
def test_fields_are_read_in_the_sources_of_a_class_and_its_bases(path: str) -> None:
    has = known_fields(path)
    assert has is not None
    assert [name for name in ("own", "id", "base_url", "unindented", "plain", "wn", "nope") if has(name)] == [
        "own",
        "id",
        "base_url",
        "unindented",  # rather one too many
    ]
    assert not {"made_up", "made_up.chat"} & set(sys.modules)


@pytest.mark.parametrize(
    "path",
    [
        *("made_up.twice:Chat", "made_up.either:Chat", "made_up.lost:Chat", "made_up.round:Chat"),
        *("made_up.made:Chat", "made_up.made:Dotted", "made_up.made:Self"),
        *("made_up.chat:Nothing", "made_up.nothing:Chat", "nowhere_at_all:Chat", "made_up.chat.deep:Chat"),
        *("", ":", "."),
    ],
)
def test_nothing_is_said_of_a_class_that_is_not_understood(path: str) -> None:
    assert known_fields(path) is None


def test_of_an_imported_class_exactly_its_fields_are_known() -> None:
    has = known_fields("agno.models.openai.like:OpenAILike")
    assert has is not None
    assert (has("base_url"), has("get_client"), has("self")) == (True, False, False)


def test_no_field_of_a_real_class_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in {each.__module__ for each in OpenAILike.__mro__}:
        if module.startswith("agno."):
            monkeypatch.delitem(sys.modules, module)
    has = known_fields(f"{OpenAILike.__module__}:OpenAILike")
    assert OpenAILike.__module__ not in sys.modules
    assert has is not None
    assert [name for name in OpenAILike.__dataclass_fields__ if not has(name)] == []
    assert not has("host")


ASSEMBLY = """
import json, sys
from hfs_providers import KeyedProvider, ProviderManager
from hfs_providers.authoring import ModelDefault
def made(name, **given):
    return KeyedProvider(name=name, model_class=CLASS, sdk="openai", base_url="https://acme.example",
                         models=(ModelDefault("m"),), **given)
CLASS = "agno.models.sambanova:Sambanova"
plugins = [made("good", model_params={"temperature": 1}), made("bad", client="ollama", stream_params={"nope": 1})]
env = {"GOOD_API_KEY": "good-0123456789", "BAD_API_KEY": "bad-0123456789", "HFS_USAGE_DB": "off"}
with ProviderManager(env=env, plugins=plugins) as manager:
    wrong = [(p.provider, p.level, p.message, p.remedy) for p in manager.problems if p.provider]
    print(json.dumps([manager.available_providers, wrong, sorted({"openai", "agno.models.openai"} & set(sys.modules))]))
"""


def test_assembly_reports_them_without_the_sdk(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", ASSEMBLY], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    available, problems, imported = json.loads(done.stdout.splitlines()[-1])
    assert (available, imported) == (["good"], [])
    assert [(provider, level) for provider, level, _, _ in problems] == [("bad", "error")]
    assert "takes no 'nope'" in problems[0][2]
    assert "`stream_params`" in problems[0][3]
