"""Data sets that other packages add, through the entry-point group `vchat.sources`.

An entry point has the name of the data set; its value is a `Source`, as in
`captions = "my_package:SOURCE"`. Listing names imports none of these packages; using a data set
imports its package.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points

from vchat.prep.sources.source import Source

GROUP = "vchat.sources"


def plugin_sources() -> Mapping[str, EntryPoint]:
    """Return the entry points of all installed packages by name, in alphabetical order.

    Raises:
        ValueError: If two packages add one name.
    """
    points: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        other = points.setdefault(point.name, point)
        if other.value != point.value:
            raise ValueError(
                f"data set {point.name!r} is added by both {other.value} and {point.value}:"
                " uninstall one of the packages"
            )
    return points


def load_source(point: EntryPoint) -> Source:
    """Import the package of an entry point and return its source.

    Raises:
        ValueError: If that fails, or gives no `Source` of the entry point's name.
    """
    where = f"entry point {point.name} = {point.value}"
    try:
        source = point.load()
    except (ImportError, AttributeError) as err:
        raise ValueError(f"{where} cannot be loaded: {err}") from err
    if not isinstance(source, Source):
        raise ValueError(f"{where} is {type(source).__name__}, want a vchat.prep Source")
    if source.name != point.name:
        raise ValueError(f"{where} holds a source named {source.name!r}: want equal names")
    return source
