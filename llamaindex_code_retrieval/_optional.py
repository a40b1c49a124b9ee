"""Imports that may fail or wait: packages of an extra, versions, and names that a package loads on first use."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, Literal

Extra = Literal["train", "eval", "llama-cpp", "ollama", "openai-like", "mcp", "serve"]


def require(module: str, *, extra: Extra, purpose: str = "") -> Any:
    """Import and return ``module``, which ``pip install 'llamaindex-code-retrieval[extra]'`` installs.

    ``purpose`` says in a few words what needs it, for the message.

    Raises:
        ImportError: it cannot be imported; the message names the extra.

    >>> require("json", extra="eval").loads("[1]")
    [1]
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        needs = f"{purpose} needs {module.partition('.')[0]}, which" if purpose else module
        raise ImportError(
            f"{needs} cannot be imported ({error}): pip install 'llamaindex-code-retrieval[{extra}]'"
        ) from error


def check_installed(*modules: str, extra: Extra, purpose: str) -> None:
    """Raise now what :func:`require` would raise after hours of work, without importing anything.

    Raises:
        ImportError: one of ``modules`` (top-level names) is not installed.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ImportError(f"{purpose} needs {module}: pip install 'llamaindex-code-retrieval[{extra}]'")


def installed_version(distribution: str) -> str:
    """Return the version of an installed distribution; ``unknown`` if it has no metadata, as a bare checkout.

    >>> installed_version("no-such-distribution")
    'unknown'
    """
    import importlib.metadata  # imports slowly

    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def lazy_attributes(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a module ``__getattr__`` (PEP 562) that imports the public names of ``package`` on first use.

    ``modules`` maps each name to the module that defines it, relative to the package.

    >>> lazy_attributes("json", {"JSONDecoder": "decoder"})("JSONDecoder")
    <class 'json.decoder.JSONDecoder'>
    """

    def getattr_(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)

    return getattr_
