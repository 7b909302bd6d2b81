"""Which model a provider serves by default, and which one follows a model that it no longer has."""

from __future__ import annotations

from collections.abc import Container, Sequence
from datetime import date

from hfs_providers.contract.records import ModelDefault


def default_model(models: Sequence[ModelDefault], today: date, gone: Container[str] = ()) -> str:
    """The first model that is neither past its date nor in `gone`, the ids that the provider lacks; else the last."""
    serving = (model.id for model in models if not model.retired(today) and model.id not in gone)
    return next(serving, models[-1].id)


def successor_of(models: Sequence[ModelDefault], model_id: str) -> str | None:
    """The model that follows `model_id` in `models`; None if it is the last or is not one of them."""
    ids = [model.id for model in models]
    return ids[ids.index(model_id) + 1] if model_id in ids[:-1] else None
