"""`ask`: one agent run through the public API. The answer goes to stdout, who served it to stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hfs_providers.cli import output
from hfs_providers.cli.agno_runs import agno_agent, error_of, read_stream

if TYPE_CHECKING:
    from hfs_providers import Event, ProviderManager
    from hfs_providers.usage import UsageRow

ANY = "any"


def ask(
    prompt: Annotated[str, typer.Argument(help="What to ask; - reads it from stdin.")],
    provider: Annotated[
        str, typer.Option("--provider", "-p", help="A provider's name, or any: the first that has a free key.")
    ] = ANY,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="The provider's own model id.", show_default=False)
    ] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer as it arrives.")] = False,
) -> None:
    """Ask one question. The answer goes to stdout, and who gave it to stderr."""
    from hfs_providers import ProviderManager

    provider = provider.strip().lower()
    if provider == ANY and model is not None:
        output.fail("--model needs --provider", "Model ids are the provider's own: add --provider groq", code=2)
    if prompt == "-":
        prompt = sys.stdin.read()
    if not prompt.strip():
        output.fail("the prompt is empty", code=2)
    with ProviderManager() as manager:
        # The answer alone belongs on stdout, and Agno logs there.
        output.set_up_agno_logging()
        rows: list[UsageRow] = []
        remove = manager.observe(lambda event: _collect(event, rows))
        try:
            error = _run(manager, provider, model, prompt, stream)
        finally:
            remove()
            _report(rows)
    if error is not None:
        output.fail(error)


def _collect(event: Event, rows: list[UsageRow]) -> None:
    if event.usage is not None:
        rows.append(event.usage)


def _run(manager: ProviderManager, provider: str, model_id: str | None, prompt: str, stream: bool) -> str | None:
    """Run the agent. Returns the error, or None."""
    if provider != ANY:
        return _answer(_model(manager, provider, model_id), prompt, stream)[0]
    asked: set[str] = set()
    error: str | None = None
    while True:
        name, model = manager.get_any_model()
        if name in asked:
            return error
        # A provider whose last keys turn out dead or limited during the call is passed over at the next choice.
        asked.add(name)
        error, printed = _answer(model, prompt, stream)
        if error is None or printed:
            return error


def _model(manager: ProviderManager, provider: str, model_id: str | None) -> Any:
    from hfs_providers import HfsProvidersError

    try:
        return manager.get_model(provider, model_id)
    except HfsProvidersError:
        raise
    except Exception as error:
        # The first model imports the SDK, and a broken one may raise anything.
        output.fail(
            f"the SDK of {provider} is installed but cannot be used: {type(error).__name__}: {error}",
            "Run: hfs-providers doctor",
        )


def _answer(model: Any, prompt: str, stream: bool) -> tuple[str | None, bool]:
    """Print the answer. Returns the error or None, and whether anything was printed."""
    agent = agno_agent(model)
    if stream:
        error, printed = read_stream(agent.run(prompt, stream=True), lambda piece: print(piece, end="", flush=True))
        if printed:
            print(flush=True)
        return error, printed
    run = agent.run(prompt)
    error = error_of(run)
    if error is None:
        print(run.content, flush=True)
    return error, error is None


def _report(rows: list[UsageRow]) -> None:
    for row in rows:
        if row.outcome == "ok":
            tokens = f"{row.tokens} tokens ({row.tokens_in} in, {row.tokens_out} out)"
            output.note(f"served by {row.provider}/{row.model} with key {row.key_id}: {tokens}, {row.latency:.2f} s")
        else:
            output.note(f"{row.provider}/{row.model} with key {row.key_id}: {row.outcome}, {row.latency:.2f} s")
