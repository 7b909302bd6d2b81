"""`keys import`: keys from any list into a provider's own file with keys (`X_API_KEYS_FILE`).

JSON: `provider`, `file` (that was written), `keys` (that it has now), `added`, `dropped` (`there`: keys that it had
already; `elsewhere`: ids of keys that the environment has; `lines`: by what is wrong, the lines without a key),
`variable`, `used` (whether the variable names the file).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hfs_providers.cli import output
from hfs_providers.contract.environment import KEYS_FILE, env_name

if TYPE_CHECKING:
    from hfs_providers.keys.key_files import KeyList, ListedKey, PrivateFile


def import_keys(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A file with one key per line, or - for standard input.")],
    provider: Annotated[str, typer.Option(help="The provider of the keys.")],
    to: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="The file to write. By default that of X_API_KEYS_FILE, else one in your configuration directory.",
            show_default=False,
        ),
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Add the keys of a list to a provider's file with keys, each once. Only you can read that file."""
    from hfs_providers.cli.models import provider_named
    from hfs_providers.core.inventory import take_inventory
    from hfs_providers.keys.key_files import keys_of_file

    found = take_inventory()
    name = provider_named(found, provider)
    if getattr(found.registry.plugins[name].target, "keyless", False):
        output.fail(f"{name} takes endpoints instead of keys", f"Set {env_name(name)}_ENDPOINT_1")
    config = found.providers[name].config
    variable = env_name(name) + KEYS_FILE
    listed = _usable(keys_of_file(_source(file)), "that file" if file != "-" else "standard input")
    target = os.path.realpath(os.path.expanduser(to) if to else config.key_file or _usual_place(name))
    same = file != "-" and os.path.exists(target) and os.path.samefile(file, target)
    before = b"" if same else _before(target)
    there = {key.secret.fingerprint for key in _keys(before)}
    elsewhere = {each.fingerprint: each.id for each in config.credentials if each.source != config.key_file}
    new = [key for key in listed.keys if key.secret.fingerprint not in there | elsewhere.keys()]
    if new or same:
        _write(target, before, new)
    record: dict[str, Any] = {
        "provider": name,
        "file": target,
        "keys": len(there) + len(new),
        "added": len(new),
        "dropped": {
            "there": sum(key.secret.fingerprint in there for key in listed.keys),
            "elsewhere": [
                elsewhere[mark] for key in listed.keys if (mark := key.secret.fingerprint) in elsewhere.keys() - there
            ],
            "lines": listed.dropped,
        },
        "variable": variable,
        "used": config.key_file is not None and os.path.realpath(config.key_file) == target,
    }
    if as_json:
        output.print_json(record)
    else:
        _print(record)
        if not same and file != "-":
            print("The keys are still in the file that they came from: delete it if you no longer need it.")


def _source(file: str) -> PrivateFile:
    from hfs_providers.keys.key_files import MOST_BYTES, PrivateFile, read_private_file

    if file == "-":
        return PrivateFile(sys.stdin.buffer.read(MOST_BYTES))
    return read_private_file(os.path.abspath(file))


def _usable(listed: KeyList, what: str) -> KeyList:
    """The list. Ends the command if it holds no key."""
    if listed.fault:
        # Not its path, which may be a pasted key.
        output.fail(f"{what} {listed.fault}", listed.remedy)
    return listed


def _usual_place(name: str) -> Path:
    from platformdirs import user_config_path

    return user_config_path("hfs-providers", appauthor=False) / f"{name}.keys"


def _before(target: str) -> bytes:
    """What the file has already, which does not change."""
    from hfs_providers.keys.key_files import EMPTY, keys_of_file, read_private_file

    if not os.path.lexists(target):
        return b""
    file = read_private_file(target)
    fault = keys_of_file(file).fault
    if file.data is None or fault not in ("", EMPTY):
        output.fail(f"{target} {fault}", file.remedy or "Name another file: --to PATH")
    return file.data


def _keys(data: bytes) -> Sequence[ListedKey]:
    from hfs_providers.keys.key_files import PrivateFile, keys_of_file

    return keys_of_file(PrivateFile(data)).keys


def _write(target: str, before: bytes, new: Iterable[ListedKey]) -> None:
    from hfs_providers.keys.key_files import replace_private_file

    lines = [f"{key.secret.reveal()}{f',{key.account}' if key.account else ''}\n" for key in new]
    begin = before if not before or before.endswith((b"\n", b"\r")) else before + b"\n"
    try:
        replace_private_file(target, begin + "".join(lines).encode())
    except OSError as error:
        output.fail(f"{target} cannot be written: {error.strerror}", "Name another file: --to PATH")


def _print(record: dict[str, Any]) -> None:
    dropped = record["dropped"]
    print(f"{_count(record['added'])} added to {record['file']}, which has {_count(record['keys'])} now.")
    if dropped["there"]:
        print(f"Dropped: {_count(dropped['there'])} that it had already.")
    if dropped["elsewhere"]:
        print(
            f"Dropped: {_count(len(dropped['elsewhere']))} that the environment has ({dropped['elsewhere'][0]}, ...)."
        )
    for fault, lines in dropped["lines"].items():
        print(f"Dropped: each entry that {fault} (line{'s' * (len(lines) > 1)} {', '.join(map(str, lines))}).")
    if not record["used"]:
        print(f"To use the file: {record['variable']}={record['file']}")


def _count(number: int) -> str:
    return f"{number} key{'' if number == 1 else 's'}"
