"""A provider of its own in ten lines: an in-house gateway that speaks OpenAI's protocol."""

from hfs_providers.authoring import KeyedProvider, Limits, ModelDefault

plugin = KeyedProvider(
    name="acme",
    model_class="agno.models.openai.like:OpenAILike",
    sdk="openai",
    base_url="https://llm.acme.example/v1",
    openai_path="",
    models=[ModelDefault("acme-large"), ModelDefault("acme-small")],
    limits={"acme-*": Limits(rpm=600)},
)
