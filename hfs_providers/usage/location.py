"""Where usage is kept and forwarded to, as an environment says. Only this module reads the variables for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hfs_providers.contract.environment import FORWARD, REDIS, TIDB, USAGE
from hfs_providers.contract.records import Problem


@dataclass(frozen=True, slots=True)
class Places:
    """Where an environment stores and forwards usage.

    Args:
        path: of the local file, or None if usage is not kept.
        targets: URLs of databases by the variable that names them. They may hold passwords.
        redis: URL, or None.
        problems: what cannot be used.
        unkept: why usage is not kept, or None if it is. It is one of the problems unless it is switched off.
    """

    path: Path | None
    targets: Mapping[str, str]
    redis: str | None
    problems: tuple[Problem, ...] = ()
    unkept: Problem | None = None

    def __repr__(self) -> str:
        return f"Places(path={self.path}, targets={list(self.targets)}, redis={self.redis is not None})"

    @classmethod
    def of(cls, env: Mapping[str, str]) -> Places:
        """Read them from an environment."""
        said = env.get(USAGE, "").strip()
        targets, problems = {}, []
        urls = {name: env.get(name, "").strip() for name in (USAGE, FORWARD, TIDB)}
        if urls[FORWARD] and urls[TIDB]:
            if urls[FORWARD] != urls[TIDB]:
                message = f"{FORWARD} and {TIDB} name different databases: {TIDB} is not used"
                problems.append(Problem(message, f"Remove {TIDB}"))
            del urls[TIDB]
        for name, url in urls.items():
            if "://" in url:
                targets[name] = url
            elif url and name != USAGE:
                # Not shown: it may hold a password.
                message = f"{name} has no scheme: usage is not forwarded to it"
                problems.append(Problem(message, f"Write {name} as mysql://user:password@host:4000/database"))
        path = unkept = None
        if said.lower() == "off":
            unkept = Problem(f"usage is not kept: {USAGE} is off", f"Remove {USAGE}, or set it to a path")
        else:
            try:
                path = _path("" if USAGE in targets else said)
            except (OSError, RuntimeError, ValueError) as error:
                unkept = Problem(f"usage is not kept: {error}", f"Set {USAGE} to an absolute path, or to off")
                problems.append(unkept)
        return cls(path, targets, env.get(REDIS, "").strip() or None, tuple(problems), unkept)


def _path(said: str) -> Path:
    """The path of the file: the one that is named, else that in the user's state directory.

    Raises:
        OSError, RuntimeError, ValueError: there is no such path.
    """
    if "\0" in said:
        raise ValueError(f"no file can have the name in {USAGE}")
    if said:
        try:
            return Path(said).expanduser()
        except RuntimeError:
            raise RuntimeError(f"the home directory in {USAGE} is not known") from None

    try:
        path = default_path()
        known = path.is_absolute()
    except RuntimeError:
        known = False
    if not known:
        # Older versions of platformdirs leave the `~` in the path.
        raise RuntimeError("there is no home directory for its file")
    return path


def default_path() -> Path:
    """The file that is used if the environment names none."""
    import platformdirs

    return Path(platformdirs.user_state_path("hfs-providers", appauthor=False)) / "usage.db"


def usage_path(env: Mapping[str, str]) -> Path | None:
    """The local usage file that an environment names, or None if usage is not kept.

    Args:
        env: `HFS_USAGE_DB` in it is a path, `off`, or the URL of a database; with a URL, rows go to the default file
            first.
    """
    return Places.of(env).path
