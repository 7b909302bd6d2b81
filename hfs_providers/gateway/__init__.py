"""The pool of keys as an HTTP endpoint, with OpenAI's protocol and Anthropic's: `hfs-providers serve`."""
