"""OpenAI's SDK over the gateway: start `hfs-providers serve` first."""

import os

from openai import OpenAI

client = OpenAI(base_url=os.environ.get("GATEWAY", "http://127.0.0.1:8321/v1"), api_key="none-is-needed")
for model in client.models.list().data[:3]:
    print(model.id)
stream = client.chat.completions.create(model="any", messages=[{"role": "user", "content": "Say hello."}], stream=True)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
