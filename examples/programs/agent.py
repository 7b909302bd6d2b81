"""An agent with a tool, and which key served."""

from agno.agent import Agent

from hfs_providers import Event, ProviderManager


def word_count(text: str) -> int:
    """Count the words of a text."""
    return len(text.split())


def show(event: Event) -> None:
    if event.kind == "call_finished":
        print(f"  {event.model} by {event.key_id}")


with ProviderManager() as manager:
    manager.observe(show)
    agent = Agent(model=manager.get_model(manager.available_providers[0]), tools=[word_count])
    print(agent.run("How many words has 'to be or not to be'?").content)
