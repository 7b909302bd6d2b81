"""What requests cost, and what they may cost: a budget of 0.3 cents for this hour."""

from pathlib import Path

from agno.models.message import Message

from hfs_providers import ProviderManager
from hfs_providers.errors import BudgetExceededError

Path("hfs-providers.toml").write_text('[budgets]\nusd = 0.003\nper = "hour"\n')
with ProviderManager() as manager:
    model = manager.get_model(manager.available_providers[0], timeout=0)
    answered = 0
    try:
        while answered < 1000:
            model.response(messages=[Message(role="user", content="Say hello.")])
            answered += 1
    except BudgetExceededError as error:
        print(f"{answered} answers, then: {error}")
