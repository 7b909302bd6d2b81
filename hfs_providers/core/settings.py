"""The environment as this library reads it: the process environment over a `.env` file, never written to.

`Settings.load` merges the two into one read-only mapping. `read_provider` makes the typed settings of one provider out
of its own variables. Bad input is data (`Problem`), never an exception.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from hfs_providers.contract.environment import ENV_FILE, FORWARD, TIDB, USAGE, env_name
from hfs_providers.contract.records import LIMIT_NAMES, Credential, Level, Limits, Problem, ProviderConfig
from hfs_providers.contract.secret import Secret

_DATABASES = (USAGE, FORWARD, TIDB)
# Three slashes: a relative path, unless it is a drive's or `:memory:`.
_SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)(?!/|file:)(.+)", re.IGNORECASE | re.DOTALL)
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_QUOTES = "'\"`\u2018\u2019\u201c\u201d"
_PLACEHOLDER = re.compile(
    r"""
    (?: your | my | insert | enter | put | add | replace | paste | change ) [\s_\-]? .* (?: key | token | here | me )
    | (?: gsk | csk | sk | sk-or | sk-or-v1 | aiza )? [-_]? x{3,}
    | (?: api | secret )? [-_]? key (?: [-_]? (?: here | goes[-_]here | \d{0,3} ) )?
    | .* (?: \.{3} | \u2026 ) .*
    | < .* > | \$\{? .* | \.{2,} | \*{2,} | changeme | placeholder | example | todo | none | null | test
    """,
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Settings:
    """One read-only environment and what was wrong on the way to it.

    Args:
        env: variable names to values; the process environment wins over the file.
        problems: an unreadable or malformed file.
        env_file: the file that was read, if one was.
    """

    env: Mapping[str, str]
    problems: Sequence[Problem] = ()
    env_file: Path | None = None

    @classmethod
    def load(cls, env: Mapping[str, str] | None = None, env_file: str | os.PathLike[str] | None = None) -> Settings:
        """Merge the process environment and a `.env` file.

        Args:
            env: used instead of `os.environ`; the working directory's `.env` is then left alone.
            env_file: used instead of `HFS_ENV_FILE` and the working directory's `.env`.
        """
        process = dict(os.environ if env is None else env)
        named = env_file if env_file is not None else process.get(ENV_FILE, "").strip() or None
        if named is None and env is not None:
            return cls(_here(process))
        values, problems = _read_env_file(Path(named or ".env"), process, required=named is not None)
        if values is None:
            return cls(_here(process), problems)
        return cls(_here({**values, **process}), problems, Path(named or ".env").absolute())

    def __repr__(self) -> str:
        # The mapping holds keys.
        return f"Settings({len(self.env)} variables, env_file={str(self.env_file) if self.env_file else None!r})"

    def names(self, variable: str) -> list[str]:
        """The comma- or blank-separated names in `variable`, lower case, each once."""
        return list(dict.fromkeys(name.lower() for name in re.split(r"[,\s]+", self.env.get(variable, "")) if name))

    def slice(self, prefixes: Sequence[str]) -> Mapping[str, str]:
        """The variables that begin with one of `prefixes`: what one plugin may see."""
        wanted = tuple(prefixes)
        return MappingProxyType({name: value for name, value in self.env.items() if name.startswith(wanted)})


def _here(env: dict[str, str]) -> Mapping[str, str]:
    """The environment with relative paths of databases as absolute ones: the working directory may change."""
    for name in _DATABASES:
        value = env.get(name, "").strip()
        found = _SQLITE.fullmatch(value)
        head, path = found.groups() if found else ("", "" if "://" in value else value)
        # Without a URL, only `HFS_USAGE_DB` is a path.
        if path and path[0] not in "~:" and path.lower() != "off" and (found or name == USAGE):
            with suppress(OSError):
                env[name] = head + os.path.abspath(path)
    return MappingProxyType(env)


def _read_env_file(
    path: Path, process: Mapping[str, str], *, required: bool
) -> tuple[dict[str, str] | None, list[Problem]]:
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        if not required:
            return None, []
        return None, [
            Problem(f"The environment file {path} does not exist", f"Create it, or correct {ENV_FILE}", "error")
        ]
    except UnicodeDecodeError:
        problem = Problem(f"The environment file {path} is not UTF-8 text", f"Save {path} as UTF-8", "error")
        return None, [problem]
    except (OSError, ValueError, RuntimeError) as error:
        # ValueError: a name that no file can have; RuntimeError: a home directory that is not known.
        why = (error.strerror if isinstance(error, OSError) else None) or "its name is not valid"
        return None, [Problem(f"The environment file {path} cannot be read: {why}", f"Make {path} readable", "error")]
    from dotenv import dotenv_values
    from dotenv.parser import parse_stream

    bad = [str(item.original.line) for item in parse_stream(StringIO(text)) if item.error]
    problems = []
    if bad:
        where = f"line {bad[0]}" if len(bad) == 1 else f"lines {', '.join(bad)}"
        problems.append(
            Problem(f"{path} is malformed at {where}; the other lines are used", "Write each line as NAME=value")
        )
        # Left in, python-dotenv would warn about each of them on its own logger.
        text = "".join(item.original.string for item in parse_stream(StringIO(text)) if not item.error)
    # Not python-dotenv's own interpolation, which reads `os.environ` even where another environment was given.
    raw = dotenv_values(stream=StringIO(text), interpolate=False)
    values: dict[str, str] = {}
    for name, value in raw.items():
        if value is not None:
            values[name] = _REFERENCE.sub(lambda found: process.get(found[1], values.get(found[1], "")), value)
    return values, problems


def read_provider(
    provider: str, env: Mapping[str, str], *, aliases: Sequence[str] = (), keyless: bool = False
) -> ProviderConfig:
    """Read one provider's variables. `limits` stays empty where `X_LIMITS` does not name any.

    Args:
        provider: its name.
        env: the merged environment, or the slice that begins with the provider's prefixes.
        aliases: other variables that hold one key, looked at where `X_API_KEY` is not set.
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
        used = self._select(found, declared, valid)
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
            configured=bool(used),
        )

    def _problem(self, message: str, remedy: str | None = None, level: Level = "warning") -> None:
        self.problems.append(Problem(message, remedy, level, self.provider))

    def _count(self, variable: str, level: Level = "error") -> tuple[int | None, bool]:
        """A count variable, and whether it may be relied on: a wrong one switches the provider off."""
        text = self.env.get(variable, "").strip().strip(_QUOTES).strip()
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
            if numbered or (not found and not self.keyless):
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
                "warning" if found else "error",
            )
        return found[:declared]

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
                # `X_API_KEY` is a single key; another name for it is only looked at where it holds none.
                continue
            given = params.get(index, {})
            if self.keyless:
                result.append(Credential(f"{self.provider}#{index}", None, {**given, "endpoint": value}))
            else:
                result.append(Credential(f"{self.provider}#{index}", Secret(value), given))
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
        endpoint = raw.strip().strip(_QUOTES).strip()
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
            # `ACME_EU_API_KEY_1` is a key of the provider acme-eu, and no parameter of acme.
            if match and not match[1].endswith("API_KEY") and value.strip():
                params.setdefault(int(match[2]), {})[match[1].lower()] = value.strip()
        return params

    def _clean(self, variable: str, raw: str) -> str | None:
        remedy = f"Set {variable} to a key of {self.provider}, or remove it"
        key = raw.strip()
        stripped = key.strip(_QUOTES).strip()
        if not stripped or _PLACEHOLDER.fullmatch(stripped):
            self._problem(f"{variable} is {'blank' if not stripped else 'a placeholder'} and is dropped", remedy)
            return None
        if not stripped.isascii() or not stripped.isprintable() or " " in stripped:
            # Such a value cannot stand in an HTTP header; sent as it is, it would fail as a local error.
            self._problem(
                f"{variable} contains blanks, line breaks or other characters that no key has, and is dropped", remedy
            )
            return None
        if stripped != raw:
            self._problem(
                f"{variable} had blanks or quotes around it, which were removed", f"Remove them in {variable}"
            )
        return stripped

    def _base_url(self) -> str | None:
        variable = f"{self.upper}_BASE_URL"
        url = self.env.get(variable, "").strip().strip(_QUOTES).strip()
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
