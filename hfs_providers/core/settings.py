"""The environment as this library reads it: the process environment over a `.env` file, never written to.

`Settings.load` merges the two into one read-only mapping. Bad input is data (`Problem`), never an exception.
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

from hfs_providers.contract.environment import ENV_FILE, FORWARD, TIDB, USAGE
from hfs_providers.contract.records import Problem

_DATABASES = (USAGE, FORWARD, TIDB)
# Three slashes: a relative path, unless it is a drive's or `:memory:`.
_SQLITE = re.compile(r"(sqlite(?:\+\w+)?:///)(?!/|file:)(.+)", re.IGNORECASE | re.DOTALL)
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class Settings:
    """One read-only environment, and the problems of reading it.

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
    # Not python-dotenv's own interpolation, which reads `os.environ` even if another environment was given.
    raw = dotenv_values(stream=StringIO(text), interpolate=False)
    values: dict[str, str] = {}
    for name, value in raw.items():
        if value is not None:
            values[name] = _REFERENCE.sub(lambda found: process.get(found[1], values.get(found[1], "")), value)
    return values, problems
