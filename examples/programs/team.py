"""A team on a chain: if the first provider cannot answer, the second does."""

from agno.agent import Agent
from agno.team import Team

from hfs_providers import get_chain, list_available_providers

providers = list_available_providers()[:2]
writer = Agent(name="Writer", role="Writes one sentence", model=get_chain(*providers))
critic = Agent(name="Critic", role="Improves a sentence", model=get_chain(*reversed(providers)))
team = Team(members=[writer, critic], model=get_chain(*providers))
print(team.run("Write one sentence about rain.").content)
