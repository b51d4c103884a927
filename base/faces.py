"""A package's face: public names that are imported when they are first used."""

from collections.abc import Callable
from importlib import import_module


def lazy_names(package: str, homes: dict[str, str]) -> Callable[[str], object]:
    """Return the module `__getattr__` of `package` (PEP 562).

    Args:
        package: The full name of the package.
        homes: Each public name with the module, relative to the package, that defines it.

    Raises:
        AttributeError: The returned function, for a name that is not public.
    """

    def get(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return get
