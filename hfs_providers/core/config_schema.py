"""The tables of the TOML file as pydantic models; imported only if there is a file."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

_Dollars = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Allowance(_Table):
    rpm: PositiveInt | None = None
    rph: PositiveInt | None = None
    rpd: PositiveInt | None = None
    tpm: PositiveInt | None = None
    tph: PositiveInt | None = None
    tpd: PositiveInt | None = None
    day_zone: str | None = None


class LimitsTable(_Allowance):
    """`[providers.X.limits."model"]`: the fields of `Limits`."""

    shared: bool = False


class KeyTable(BaseModel):
    """`[providers.X.keys.n]` or `.keys."X@fingerprint"`: whether the key is free of charge, and its limits by model."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, LimitsTable]

    free: bool = False


class BudgetTable(_Table):
    """`[budgets]`, `[providers.X.budget]` and `[clients.NAME.budget]`: the fields of `Budget`."""

    usd: _Dollars
    per: Literal["hour", "day", "month"]
    unpriced: Literal["refuse", "allow"] = "refuse"


class ProviderTable(_Table):
    """`[providers.X]`: its default model, limits by model, and by key and model; what it costs."""

    model: str | None = None
    limits: dict[str, LimitsTable] = Field(default_factory=dict)
    keys: dict[str, KeyTable] = Field(default_factory=dict)
    free: bool = False
    budget: BudgetTable | None = None


class ClientTable(_Allowance):
    """`[clients.NAME]`: what a client of the gateway may ask for, how often, and what its requests may cost."""

    models: list[str] | None = None
    budget: BudgetTable | None = None


class PriceTable(_Table):
    """`[prices."provider/model"]`: USD for a million tokens of each kind, and for a request."""

    input: _Dollars
    cached: _Dollars | None = None
    cache_write: _Dollars | None = None
    output: _Dollars
    request: _Dollars | None = None


class FileTable(_Table):
    """The whole file. An unknown name is an error, so that a misspelt one is noticed."""

    order: list[str] = Field(default_factory=list)
    tiers: dict[str, list[str]] = Field(default_factory=dict)
    providers: dict[str, ProviderTable] = Field(default_factory=dict)
    prices: dict[str, PriceTable] = Field(default_factory=dict)
    budgets: BudgetTable | None = None
    clients: dict[str, ClientTable] = Field(default_factory=dict)
