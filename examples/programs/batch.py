"""40 questions over two processes. A model can be pickled; its copies share the keys and their limits."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from agno.models.base import Model
from agno.models.message import Message

from hfs_providers import get_model, list_available_providers


def answer(model: Model, number: int) -> str:
    """Runs in another process. The pickle holds no key: the process finds them in its own environment."""
    return str(model.response(messages=[Message(role="user", content=f"What is {number} plus one?")]).content)


if __name__ == "__main__":
    model = get_model(list_available_providers()[0], timeout=60.0)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        answers = list(processes.map(answer, [model] * 40, range(40)))
    print(f"{len(answers)} answers, the last: {answers[-1]}")
