"""`hfs-providers ask`, against the loopback server, through the real SDKs."""

from __future__ import annotations

import re

import pytest

from hfs_providers.testing import HalfStream, LoopbackServer, Ok, RateLimited, ServerError, Unauthorized

PROVIDERS = ("cerebras", "groq", "gemini", "openrouter")
KEYS = {name: [f"{name}MARK{number}qzxvwk{number}jhgfy" for number in (1, 2)] for name in PROVIDERS}


@pytest.fixture
def server():
    with LoopbackServer() as running:
        yield running


@pytest.fixture
def ask(cli, server):
    """Ask with the keys of these providers; nothing of a key may be printed."""

    def run(*args, providers=PROVIDERS, env=None, **options):
        keys = {name: KEYS[name] for name in providers}
        done = cli("ask", *args, env={**server.env(keys), **(env or {})}, **options)
        for key in (key for given in keys.values() for key in given):
            for start in range(len(key.partition("MARK")[0]), len(key) - 5):
                assert key[start : start + 6] not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.mark.parametrize("stream", [[], ["--stream"]])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_answer_on_stdout_and_who_served_on_stderr(ask, server, provider, stream):
    server.script(provider, "*", [Ok(text="Hello from afar.", usage=(7, 3))])
    done = ask("hi", "--provider", provider, *stream)
    assert (done.returncode, done.stdout) == (0, "Hello from afar.\n")
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(
        rf"served by {provider}/\S+ with key {provider}#\d: 10 tokens \(7 in, 3 out\), \d+\.\d\d s", line
    )


def test_prompt_comes_from_stdin_where_it_is_a_dash(ask):
    done = ask("-", "-p", "groq", given="what is up")
    assert "what is up" in done.stdout


def test_empty_prompt_is_wrong_usage(ask):
    assert ask("  ").returncode == 2


def test_named_model_is_the_one_asked_for(ask, server):
    done = ask("hi", "-p", "groq", "-m", "openai/gpt-oss-120b")
    assert "served by groq/openai/gpt-oss-120b" in done.stderr
    assert [seen.model for seen in server.seen] == ["openai/gpt-oss-120b"]


def test_model_without_provider_is_wrong_usage(ask):
    done = ask("hi", "--model", "x")
    assert done.returncode == 2
    assert "--provider" in done.stderr


def test_any_takes_the_first_in_order(ask):
    assert "served by gemini/" in ask("hi", env={"HFS_PROVIDER_ORDER": "gemini"}).stderr


def test_keys_that_went_out_on_the_way_are_told(ask, server):
    server.script("groq", "*", [RateLimited(retry_after=30, echo_key=True)])
    done = ask("hi", "-p", "groq", providers=["groq"])
    assert done.returncode == 0
    first, second = done.stderr.splitlines()
    assert re.match(r"groq/llama-3.3-70b-versatile with key groq#\d: rate_limited", first)
    assert re.match(r"served by groq/llama-3.3-70b-versatile with key groq#\d", second)


def test_any_goes_on_where_a_provider_turns_out_exhausted(ask, server):
    server.script("cerebras", "*", [], then=Unauthorized(echo_key=True))
    done = ask("hi", providers=["cerebras", "groq"])
    assert done.returncode == 0
    assert "served by groq/" in done.stderr


@pytest.mark.parametrize("args", [[provider] for provider in PROVIDERS] + [["groq", "--stream"]])
def test_refused_keys_are_an_error_and_no_answer(ask, server, args):
    server.script(args[0], "*", [], then=Unauthorized(echo_key=True))
    done = ask("hi", "-p", *args)
    assert (done.returncode, done.stdout) == (1, "")
    *refused, error = done.stderr.splitlines()
    assert sorted(re.findall(r"with key \S+: \w+", "\n".join(refused))) == [
        f"with key {args[0]}#{number}: dead" for number in (1, 2)
    ]
    assert error.startswith(f"Error: no answer (error): {args[0]}/")


def test_failure_that_passes_is_told_beside_the_answer(ask, server):
    server.script("groq", "*", [ServerError(status=500), Ok(text="late")])
    done = ask("hi", "-p", "groq")
    assert (done.returncode, done.stdout) == (0, "late\n")
    assert [line.partition(" ")[0] for line in done.stderr.splitlines()] == ["groq/llama-3.3-70b-versatile", "served"]


def test_stream_that_breaks_ends_with_an_error_after_what_was_received(ask, server):
    server.script("groq", "*", [], then=HalfStream(chunks=2))
    done = ask("hi", "-p", "groq", "--stream")
    assert done.returncode == 1
    assert done.stdout
    assert "Error: no answer" in done.stderr or "interrupted" in done.stderr


def test_unknown_provider_is_exit_code_2(ask):
    done = ask("hi", "-p", "grok")
    assert done.returncode == 2
    assert "Did you mean 'groq'?" in done.stderr


def test_missing_key_names_the_variable(cli):
    done = cli("ask", "hi", "-p", "groq")
    assert (done.returncode, done.stdout) == (1, "")
    assert "GROQ_API_KEY_1" in done.stderr


def test_nothing_configured_is_an_error(cli):
    done = cli("ask", "hi")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Error: " in done.stderr


def test_missing_sdk_names_the_command(ask, without):
    done = ask("hi", "-p", "groq", env={"HIDDEN": "groq"}, path=[without])
    assert done.returncode == 1
    assert "pip install 'hfs-providers[groq]'" in done.stderr


@pytest.mark.parametrize("source", ["import no_such_dependency", "raise RuntimeError('no_such_dependency')"])
def test_broken_sdk_is_reported_by_its_own_error(ask, tmp_path, source):
    broken = tmp_path / "broken" / "groq"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(source)
    done = ask("hi", "-p", "groq", path=[broken.parent])
    assert done.returncode == 1
    assert "no_such_dependency" in done.stderr
    assert "hfs-providers doctor" in done.stderr
