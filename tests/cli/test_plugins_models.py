"""`hfs-providers plugins` and `hfs-providers models`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hfs_providers.testing import LoopbackServer, Unauthorized


@pytest.fixture
def distribution(tmp_path):
    """Installs a made-up distribution; gives the folder for the import path."""

    def install(name: str, points: dict[str, str], modules: dict[str, str]) -> Path:
        site = tmp_path / "site" / name
        info = site / f"{name.replace('-', '_')}-1.2.3.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2.3\n")
        lines = [f"{point} = {target}" for point, target in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[hfs_providers]", *lines, ""]))
        for module, source in modules.items():
            (site / f"{module}.py").write_text(source)
        return site

    return install


OBSERVER = """
from hfs_providers import hookimpl
hfs_contract = 1
@hookimpl
def on_event(event): pass
"""
HOOK_WRAPPER = """
from hfs_providers import hookimpl
hfs_contract = 1
@hookimpl(wrapper=True)
def default_model(config):
    return (yield)
"""
ACME = """
from hfs_providers import KeyedProvider, ModelDefault
plugin = KeyedProvider(name="acme", model_class="", models=[ModelDefault("acme-large")])
"""


UNFIT = """
from hfs_providers import KeyedProvider
from hfs_providers.authoring import ModelDefault
plugin = KeyedProvider(
    name="unfit", model_class="agno.models.cohere:Cohere", base_url="https://a.example", models=[ModelDefault("m")]
)
"""


def test_plugins_and_doctor_name_a_field_that_the_model_class_does_not_take(cli, distribution):
    site = distribution("unfit-llm", {"unfit": "unfit_llm:plugin"}, {"unfit_llm": UNFIT})
    done = cli("plugins", "--json", path=[site])
    [problem] = json.loads(done.stdout)["problems"]
    assert (done.returncode, problem["plugin"], problem["distribution"]) == (1, "unfit", "unfit-llm")
    assert problem["message"] == "agno.models.cohere:Cohere takes no 'base_url'"
    assert problem["remedy"].startswith("Set `client` in the plugin")
    env = {"UNFIT_API_KEY": "unfit-0123456789"}
    findings = json.loads(cli("doctor", "--json", path=[site], env=env).stdout)["findings"]
    named = [each for each in findings if each["message"].endswith(problem["message"])]
    assert [(each["level"], each["topic"], each["provider"]) for each in named] == [("error", "plugins", "unfit")]
    assert named[0]["remedy"] == problem["remedy"]


def test_plugins_names_a_client_that_is_none(cli, distribution):
    source = UNFIT.replace("base_url=", "client='nothing:at_all', base_url=")
    site = distribution("unfit-llm", {"unfit": "unfit_llm:plugin"}, {"unfit_llm": source})
    done = cli("plugins", "--json", path=[site])
    [problem] = json.loads(done.stdout)["problems"]
    assert (done.returncode, problem["plugin"]) == (1, "unfit")
    assert "`client` raised ModuleNotFoundError" in problem["message"]


def test_plugins_lists_the_built_in_ones(cli):
    done = cli("plugins", "--json")
    assert done.returncode == 0
    listing = json.loads(done.stdout)
    assert listing["problems"] == listing["disabled"] == []
    by_name = {plugin["name"]: plugin for plugin in listing["plugins"]}
    assert set(by_name) == {"cerebras", "groq", "gemini", "openrouter", "otel"}
    assert by_name["otel"]["kind"] == "observer"
    groq = by_name["groq"]
    assert groq.pop("version")
    assert groq == {
        "contract": 1,
        "name": "groq",
        "distribution": "hfs-providers",
        "kind": "provider",
        "hooks": ["build_wrapper", "configure_env", "default_model", "health"],
        "sources": {},
    }


def test_plugins_tells_observers_and_hook_wrappers_apart(cli, distribution):
    site = distribution(
        "acme",
        {"watch": "watch", "wrap": "wrap", "acme": "acme:plugin"},
        {"watch": OBSERVER, "wrap": HOOK_WRAPPER, "acme": ACME},
    )
    listing = json.loads(cli("plugins", "--json", path=[site]).stdout)
    kinds = {plugin["name"]: (plugin["kind"], plugin["distribution"]) for plugin in listing["plugins"]}
    assert kinds["watch"] == ("observer", "acme")
    assert kinds["wrap"] == ("hook wrapper", "acme")
    assert kinds["acme"] == ("provider", "acme")


def test_broken_plugin_is_named_with_its_distribution(cli, distribution):
    site = distribution("hfs-broken", {"broken": "broken"}, {"broken": "raise RuntimeError('oh dear')"})
    done = cli("plugins", path=[site])
    assert done.returncode == 1
    assert "hfs-broken" in done.stdout
    assert "RuntimeError: oh dear" in done.stdout
    assert "remedy: " in done.stdout
    (problem,) = json.loads(cli("plugins", "--json", path=[site]).stdout)["problems"]
    assert (problem["plugin"], problem["distribution"]) == ("broken", "hfs-broken")


def test_plugin_whose_hook_fails_is_a_problem_too(cli, distribution):
    source = ACME.replace("KeyedProvider(", "P(").replace(
        "plugin =",
        "class P(KeyedProvider):\n    from hfs_providers import hookimpl\n    @hookimpl\n"
        "    def configure_env(self, env): raise ValueError('bad day')\nplugin =",
    )
    site = distribution("hfs-acme", {"acme": "acme:plugin"}, {"acme": source})
    done = cli("plugins", "--json", path=[site])
    assert done.returncode == 1
    (problem,) = json.loads(done.stdout)["problems"]
    assert (problem["plugin"], problem["distribution"]) == ("acme", "hfs-acme")
    assert "bad day" in problem["message"]


def test_disabled_plugins_are_listed_and_no_problem(cli):
    done = cli("plugins", "--json", env={"HFS_DISABLED_PLUGINS": "groq"})
    assert done.returncode == 0
    assert json.loads(done.stdout)["disabled"] == ["groq"]
    assert "Disabled by HFS_DISABLED_PLUGINS: groq" in cli("plugins", env={"HFS_DISABLED_PLUGINS": "groq"}).stdout


def test_models_names_defaults_successors_and_dates(cli):
    done = cli("models", "--json")
    assert done.returncode == 0
    by_name = {provider["name"]: provider for provider in json.loads(done.stdout)["providers"]}
    cerebras = by_name["cerebras"]
    assert list(cerebras) == ["name", "default_model", "default_from", "models", "live", "live_error"]
    assert cerebras["default_from"] == "plugin"
    assert cerebras["models"][0] == {
        "id": "llama-3.3-70b",
        "retires": "2026-02-16",
        "retired": True,
        "default": False,
        "listed": None,
    }
    assert cerebras["default_model"] == cerebras["models"][1]["id"] == "gpt-oss-120b"
    assert "2026-02-16 (retired)" in cli("models", "cerebras").stdout


def test_models_of_one_provider_whatever_its_case(cli):
    assert [p["name"] for p in json.loads(cli("models", "Groq", "--json").stdout)["providers"]] == ["groq"]


def test_models_tells_where_the_default_comes_from(cli, tmp_path):
    (tmp_path / "hfs-providers.toml").write_text('[providers.gemini]\nmodel = "gemini-mine"\n')
    listing = json.loads(cli("models", "--json", env={"GROQ_MODEL": "mine"}).stdout)["providers"]
    sources = {provider["name"]: (provider["default_model"], provider["default_from"]) for provider in listing}
    assert sources["groq"] == ("mine", "GROQ_MODEL")
    assert sources["gemini"] == ("gemini-mine", str(tmp_path / "hfs-providers.toml"))


def test_unknown_provider_is_exit_code_2_with_the_nearest_name(cli):
    done = cli("models", "grok")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Did you mean 'groq'?" in done.stderr


def test_disabled_provider_is_said_to_be_disabled(cli):
    done = cli("models", "groq", env={"HFS_DISABLED_PLUGINS": "groq"})
    assert done.returncode == 2
    assert "HFS_DISABLED_PLUGINS" in done.stderr


@pytest.mark.parametrize("provider", ["cerebras", "groq", "gemini", "openrouter"])
def test_live_lists_what_the_provider_has_and_marks_what_it_lacks(cli, provider):
    with LoopbackServer() as server:
        first, second = (
            m["id"] for m in json.loads(cli("models", provider, "--json").stdout)["providers"][0]["models"]
        )
        server.set_models(provider, [second, "another"])
        env = server.env({provider: 1})
        done = cli("models", provider, "--live", "--json", env=env)
        assert done.returncode == 0, done.stderr
        (record,) = json.loads(done.stdout)["providers"]
        assert record["live"] == sorted([second, "another"])
        assert {model["id"]: model["listed"] for model in record["models"]} == {first: False, second: True}
        assert "another" in cli("models", provider, "--live", env=env).stdout


def test_live_without_a_key_says_which_variable(cli):
    done = cli("models", "groq", "--live")
    assert done.returncode == 1
    assert "GROQ_API_KEY_1" in done.stderr


def test_live_with_a_refused_key_shows_no_key(cli):
    with LoopbackServer() as server:
        env = server.env({"groq": 1})
        server.script("groq", "*", [], then=Unauthorized(echo_key=True))
        done = cli("models", "groq", "--live", env=env)
    assert done.returncode == 1
    assert "401" in done.stderr
    assert env["GROQ_API_KEY_1"][4:10] not in done.stdout + done.stderr
