"""Whether a model class has the fields that a plugin sets, as far as that can be told without importing it."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Collection, Iterator
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from typing import NamedTuple

from hfs_providers.clients.cache import Clients
from hfs_providers.contract.protocols import ProviderTraits

_CLASS = r"^class[ \t]+{name}[ \t]*(?:\(([^()]*)\))?[ \t]*:"
_IMPORT = re.compile(r"^[ \t]*from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)", re.MULTILINE)
_COMMENT = re.compile(r"#.*")


class Misfit(NamedTuple):
    """A field that a plugin sets and its model class does not have.

    Args:
        message: which one.
        remedy: what to change in the plugin.
    """

    message: str
    remedy: str


def misfits(
    traits: ProviderTraits, url_field: str | None, base_url: str | None, has: Callable[[str], bool]
) -> Iterator[Misfit]:
    """The fields that a plugin sets and its class does not have.

    Args:
        traits: the plugin's data, with that of its family.
        url_field: the family's field for the address.
        base_url: the address.
        has: whether the class has a field.
    """
    for name in dict.fromkeys((*traits.model_params, *traits.stream_params)):
        if not has(name):
            remedy = "Take it out of `model_params` and `stream_params` of the plugin"
            yield Misfit(f"{traits.model_class} takes no {name!r}", remedy)
    if base_url is not None and url_field is not None and not has(url_field):
        remedy = "Set `client` in the plugin to the family of the class's SDK, or to a class of your own"
        yield Misfit(f"{traits.model_class} takes no {url_field!r}", remedy)


def known_misfits(traits: ProviderTraits, family: type[Clients], base_url: str | None) -> Iterator[Misfit]:
    """The fields that a plugin sets and its class does not have, as far as `known_fields` tells."""
    has = known_fields(traits.model_class)
    if has is not None:
        yield from misfits(family.complete(traits), family.url_field, base_url, has)


def known_fields(path: str) -> Callable[[str], bool] | None:
    """What tells whether the class at `module:name` has a field, or None if that is not known.

    Nothing is imported. For a class that is not imported already its source is read: which names stand there before a
    colon. So it is for the classes that it inherits from. That may name more than the fields, and never fewer.
    """
    module, _, name = path.partition(":")
    try:
        sources = _sources(module, name)
    except RecursionError:  # modules that import a name from one another
        return None
    if sources is None:
        return None
    return lambda field: any(re.search(rf"(?:^|;)[ \t]*{re.escape(field)}[ \t]*:", each, re.M) for each in sources)


def _imported(module: str, name: str) -> Collection[str] | None:
    """The fields of a class whose module is imported."""
    fields: Collection[str] | None = getattr(getattr(sys.modules.get(module), name, None), "__dataclass_fields__", None)
    return fields


@cache
def _sources(module: str, name: str) -> tuple[str, ...] | None:
    """The sources of a class and of those that it inherits from; None if one cannot be found."""
    if module.partition(".")[0] in sys.stdlib_module_names:
        return ()
    imported = _imported(module, name)
    if imported is not None:
        return ("\n".join(f"{field}:" for field in imported),)
    source, package = _read(module)
    written = list(re.finditer(_CLASS.format(name=re.escape(name)), source, re.MULTILINE))
    if len(written) > 1:
        return None
    if not written:
        origins = {each for each, known in _imports(source, package) if known == name}
        # A class that cannot be imported may be replaced by a stub of its name.
        return _sources(*origins.pop()) if len(origins) == 1 else None
    # Up to the end of the file: where a class ends cannot be told by its lines alone.
    found = [source[written[0].end() :]]
    for base in _COMMENT.sub("", written[0][1] or "").split(","):
        base = base.strip().partition("[")[0]
        if not base or base == "object" or "=" in base:
            continue
        more = _sources(module, base) if base.isidentifier() and base != name else None
        if more is None:
            return None
        found += more
    return tuple(found)


def _imports(source: str, package: str) -> Iterator[tuple[tuple[str, str], str]]:
    """Where the names that a module imports come from: the module and the name there, and the name here."""
    for origin, names in _IMPORT.findall(source):
        for each in _COMMENT.sub("", names).strip("() \t").split(","):
            there, _, here = each.strip().partition(" as ")
            try:
                yield (importlib.util.resolve_name(origin, package), there.strip()), (here or there).strip()
            except ImportError:
                continue


def _read(module: str) -> tuple[str, str]:
    """The source of a module, or none, and the package that it is in."""
    spec = _spec(module)
    if spec is None:
        return "", ""
    package = module if spec.submodule_search_locations is not None else module.rpartition(".")[0]
    try:
        return getattr(spec.loader, "get_source")(module) or "", package  # noqa: B009  not every loader has it
    except Exception:  # a loader of somebody's own
        return "", package


def _spec(module: str) -> ModuleSpec | None:
    """What is known of a module. Unlike `importlib.util.find_spec`, it imports no package around it."""
    top, *parts = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
        for count in range(len(parts)):
            if spec is None or spec.submodule_search_locations is None:
                return None
            name = ".".join((top, *parts[: count + 1]))
            spec = PathFinder.find_spec(name, spec.submodule_search_locations)
    except Exception:  # an import hook of somebody's own
        return None
    return spec
