"""The typed settings of one provider, from its own variables. Bad input is data (`Problem`), never an exception."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from hfs_providers.contract.environment import KEYS, KEYS_FILE, env_name
from hfs_providers.contract.records import LIMIT_NAMES, Credential, Level, Limits, Problem, ProviderConfig
from hfs_providers.contract.secret import Secret
from hfs_providers.keys.key_files import key_fault, unquoted
from hfs_providers.keys.listed_keys import listed_keys


def read_provider(
    provider: str, env: Mapping[str, str], *, aliases: Sequence[str] = (), keyless: bool = False
) -> ProviderConfig:
    """Read one provider's variables. `limits` stays empty if `X_LIMITS` does not name any.

    Args:
        env: the merged environment, or the slice that begins with the provider's prefixes.
        aliases: other variables that hold one key, read if `X_API_KEY` is not set.
        keyless: the provider takes endpoints (`X_ENDPOINT_n`) rather than keys.
    """
    return _ProviderReader(provider, env, aliases, keyless).read()


class _ProviderReader:
    def __init__(self, provider: str, env: Mapping[str, str], aliases: Sequence[str], keyless: bool) -> None:
        self.provider = provider
        self.upper = env_name(provider)
        self.env = env
        self.keyless = keyless
        self.main = f"{self.upper}_ENDPOINT" if keyless else f"{self.upper}_API_KEY"
        self.aliases = (self.main, *aliases)
        self.problems: list[Problem] = []

    def read(self) -> ProviderConfig:
        found = self._credentials()
        declared, valid = self._count(f"NUM_{self.upper}")
        expected, _ = self._count(f"EXPECTED_{self.upper}", "warning")
        numbered = self._select(found, declared, valid)
        listed = listed_keys(self.provider, self.upper, {} if self.keyless else self.env, numbered)
        used = [*numbered, *listed.credentials]
        # A list that cannot be used is no error while other keys can.
        self.problems += [replace(each, level="warning") if used else each for each in listed.problems]
        if expected is not None and expected != len(used):
            self._problem(f"EXPECTED_{self.upper} is {expected}, but {_keys(len(used))} can be used")
        limits = self._limits()
        return ProviderConfig(
            name=self.provider,
            credentials=tuple(used),
            declared=declared,
            expected=expected,
            base_url=self._base_url(),
            default_model=self.env.get(f"{self.upper}_MODEL", "").strip() or None,
            limits={} if limits is None else {"*": limits},
            problems=tuple(self.problems),
            key_file=listed.file,
            configured=bool(used),
        )

    def _problem(self, message: str, remedy: str | None = None, level: Level = "warning") -> None:
        self.problems.append(Problem(message, remedy, level, self.provider))

    def _count(self, variable: str, level: Level = "error") -> tuple[int | None, bool]:
        """The value of a count variable, and whether it is valid: an invalid one switches the provider off."""
        text = unquoted(self.env.get(variable, ""))
        if not text:
            return None, True
        remedy = f"Set {variable} to the number of keys"
        if not re.fullmatch(r"[+-]?[0-9]+", text):
            self._problem(f"{variable} is not an integer", remedy, level)
            return None, False
        if len(text) > 9 or int(text) < 0:
            self._problem(f"{variable} is {text[:12]}, which is not a number of keys", remedy, level)
            return None, False
        return int(text), True

    def _select(self, found: list[Credential], declared: int | None, valid: bool) -> list[Credential]:
        count = f"NUM_{self.upper}"
        if not valid:
            return []
        if declared is None:
            # A keyless provider, and a single key without a number, need no count.
            numbered = any(not credential.id.endswith("#0") for credential in found)
            if numbered or not (found or self.keyless or self._lists()):
                self._problem(
                    f"Missing {count} environment variable",
                    f"Set {count}={len(found)}" if found else f"Set {count}=1 and {self.main}_1 to use {self.provider}",
                )
            return found
        if declared == 0:
            if found:
                self._problem(f"{count} is 0, so none of its {_keys(len(found))} is used", f"Set {count}={len(found)}")
            return []
        if declared != len(found):
            self._problem(
                f"{count} is {declared}, but {_keys(len(found))} {'was' if len(found) == 1 else 'were'} found",
                f"Set {count}={len(found)}" if found else f"Set {self.main}_1",
                "warning" if found or self._lists() else "error",
            )
        return found[:declared]

    def _lists(self) -> bool:
        """Whether there are keys, or should be, that `NUM_X` does not count."""
        return any(unquoted(self.env.get(self.upper + name, "")) for name in (KEYS, KEYS_FILE))

    def _credentials(self) -> list[Credential]:
        params = self._params()
        result: list[Credential] = []
        first_with: dict[str, str] = {}
        for index, variable, raw in self._candidates():
            value = self._endpoint(variable, raw) if self.keyless else self._clean(variable, raw)
            if value is None:
                continue
            if value in first_with:
                self._problem(f"{variable} repeats {first_with[value]} and is dropped", f"Remove {variable}")
                continue
            first_with[value] = variable
            if index == 0 and result:
                # `X_API_KEY` is a single key; its aliases are only read if it holds none.
                continue
            given = params.get(index, {})
            if self.keyless:
                given = {**given, "endpoint": value}
            secret = None if self.keyless else Secret(value)
            result.append(Credential(f"{self.provider}#{index}", secret, given, variable))
        return result if result or not self.keyless else [Credential(f"{self.provider}#0", None)]

    def _candidates(self) -> list[tuple[int, str, str]]:
        """The number, variable and value of each that may hold a key or an endpoint."""
        numbered = self._numbered(self.main)
        if not numbered:
            return [(0, name, self.env[name]) for name in self.aliases if name in self.env]
        if self.main in self.env and self.env[self.main].strip() not in numbered.values():
            self._problem(f"{self.main} is not used, because {self.main}_n are set", f"Rename it to {self.main}_n")
        return [(index, f"{self.main}_{index}", numbered[index]) for index in sorted(numbered)]

    def _endpoint(self, variable: str, raw: str) -> str | None:
        endpoint = unquoted(raw)
        if re.fullmatch(r"(?:https?://|(?!\w+://))[^\s/]+\S*", endpoint):
            return endpoint
        self._problem(f"{variable} is not an address and is dropped", f"Set {variable} to http://host:port")
        return None

    def _numbered(self, stem: str) -> dict[int, str]:
        pattern = re.compile(rf"{re.escape(stem)}_([0-9]{{1,6}})")
        found: dict[int, str] = {}
        for name, value in self.env.items():
            match = pattern.fullmatch(name)
            if match:
                found.setdefault(int(match[1]), value)
        return found

    def _params(self) -> dict[int, dict[str, str]]:
        pattern = re.compile(rf"{re.escape(self.upper)}_([A-Z][A-Z0-9_]*?)_([0-9]{{1,6}})")
        params: dict[int, dict[str, str]] = {}
        for name, value in self.env.items():
            match = pattern.fullmatch(name)
            # `ACME_EU_API_KEY_1` is a key of the provider acme-eu, not a parameter of acme.
            if match and not match[1].endswith("API_KEY") and value.strip():
                params.setdefault(int(match[2]), {})[match[1].lower()] = value.strip()
        return params

    def _clean(self, variable: str, raw: str) -> str | None:
        key = unquoted(raw)
        fault = key_fault(key)
        if fault is not None:
            remedy = f"Set {variable} to a key of {self.provider}, or remove it"
            self._problem(f"{variable} {fault}, and is dropped", remedy)
            return None
        if key != raw:
            self._problem(
                f"{variable} had blanks or quotes around it, which were removed", f"Remove them in {variable}"
            )
        return key

    def _base_url(self) -> str | None:
        variable = f"{self.upper}_BASE_URL"
        url = unquoted(self.env.get(variable, ""))
        if not url:
            return None
        if not re.fullmatch(r"https?://[^\s/]+\S*", url):
            self._problem(f"{variable} is not an http(s) URL and is ignored", f"Set {variable} to https://...")
            return None
        return url.rstrip("/")

    def _limits(self) -> Limits | None:
        """What `X_LIMITS` says: limits, `none` (which is unlimited, whatever an answer shows), or nothing."""
        variable = f"{self.upper}_LIMITS"
        text = self.env.get(variable, "").strip().lower()
        if not text:
            return None
        if text == "none":
            return Limits()
        values: dict[str, int] = {}
        for position, part in enumerate(re.split(r"[,\s]+", text.strip(", ")), 1):
            name, _, value = part.partition("=")
            if name not in LIMIT_NAMES or not re.fullmatch(r"[0-9]{1,9}(?:_[0-9]{1,3})*", value) or int(value) == 0:
                # Not quoted: it may be a key that went into the wrong variable.
                what = f"its {name}" if name in LIMIT_NAMES else f"its part {position}"
                self._problem(
                    f"{variable} cannot be read: {what} is ignored",
                    f"Write {variable} as rpm=30,tpm=6000 (names: {', '.join(LIMIT_NAMES)}), or none",
                )
                continue
            values[name] = int(value)
        return Limits(**cast(Any, values)) if values else None


def _keys(count: int) -> str:
    return f"{count} usable key" if count == 1 else f"{count} usable keys"
