"""The tables of the TOML file as pydantic models; imported only where there is a file."""

from pydantic import BaseModel, ConfigDict, Field, PositiveInt


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LimitsTable(_Table):
    """`[providers.X.limits."model"]`: the fields of `Limits`."""

    rpm: PositiveInt | None = None
    rph: PositiveInt | None = None
    rpd: PositiveInt | None = None
    tpm: PositiveInt | None = None
    tph: PositiveInt | None = None
    tpd: PositiveInt | None = None
    day_zone: str | None = None
    shared: bool = False


class ProviderTable(_Table):
    """`[providers.X]`: its default model, limits by model, and by key number and model."""

    model: str | None = None
    limits: dict[str, LimitsTable] = Field(default_factory=dict)
    keys: dict[int, dict[str, LimitsTable]] = Field(default_factory=dict)


class FileTable(_Table):
    """The whole file. A name that it does not know is an error, so that a misspelt one is not lost."""

    order: list[str] = Field(default_factory=list)
    tiers: dict[str, list[str]] = Field(default_factory=dict)
    providers: dict[str, ProviderTable] = Field(default_factory=dict)
