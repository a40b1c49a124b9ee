"""Find the licence of a folder, a source file or an installed package in the files that state it."""

from __future__ import annotations

import email.parser
import json
import re
import tomllib
from pathlib import Path
from typing import Any

from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES, language_of
from llamaindex_code_retrieval.training.mining.licenses import license_of_name, license_of_tag, license_of_text

_LICENSE_WORD = re.compile(r"licen[cs]e|copying", re.IGNORECASE)
_FILE = re.compile(r"(?:.*[-_. ])?(?:(?:un)?licen[cs]es?|copying|copyright|notice)(?:[-_. ].*)?", re.IGNORECASE)
_MAIN_FILE = re.compile(r"(?:licen[cs]e|copying)(?:\.(?:txt|md|rst|markdown|adoc|html))?", re.IGNORECASE)
_STARTS_AS_LICENSE = re.compile(r"(?:un)?licen[cs]e|copying|notice", re.IGNORECASE)
_OF_OTHERS = re.compile(r"third|3rd|vendor|depend|bundled", re.IGNORECASE)  # licences of included software
_HEADER_CHARACTERS = 4_000
_MAX_BYTES = 1_000_000


def license_of_folder(folder: Path) -> str:
    """Return the SPDX expression of the licence that the files of ``folder`` state; empty without such a file.

    These are its licence files (``LICENSE``, ``COPYING.md``, ``MIT-LICENSE``, ``UNLICENSE``, ...) and, where these
    are missing, not recognised or differ, the licence field of ``package.json``, ``pyproject.toml``, ``Cargo.toml``
    or ``composer.json``. A plain ``LICENSE`` or ``COPYING`` decides over other licence files; files of one rank, such
    as ``LICENSE-MIT`` and ``LICENSE-APACHE``, are a choice (``OR``). If nothing is recognised, the name of the licence
    file is returned.
    """
    try:
        files = sorted(path for path in folder.iterdir() if _is_license_file(path))
    except OSError:
        return ""
    recognised = {path.name: id_ for path in files if (id_ := _license_of_file(path))}
    if any(id_.startswith("LGPL") for id_ in recognised.values()):  # which is published as additions to the GPL
        recognised = {name: id_ for name, id_ in recognised.items() if not id_.startswith("GPL")}
    main = {name: id_ for name, id_ in recognised.items() if _MAIN_FILE.fullmatch(name)}
    others = {name: id_ for name, id_ in recognised.items() if _LICENSE_WORD.search(name)}
    ids = list(dict.fromkeys((main or others or recognised).values()))
    if len(ids) == 1:
        return ids[0]
    unrecognised = next((path.name for path in files if _STARTS_AS_LICENSE.match(path.name) or path.stem.isupper()), "")
    return license_of_manifests(folder) or " OR ".join(ids) or unrecognised


def _is_license_file(path: Path) -> bool:
    name = path.name
    return (
        _FILE.fullmatch(name) is not None
        and not _OF_OTHERS.search(name)
        and language_of(path) not in CODE_LANGUAGES
        and path.suffix not in (".json", ".toml", ".yml", ".yaml")
        and path.is_file()
    )


def _license_of_file(path: Path) -> str:
    text = _read(path)
    return license_of_tag(text) or license_of_text(text)


def license_of_manifests(folder: Path) -> str:
    """Return the licence that the package manifests in ``folder`` state in a recognised form; empty without one."""
    for name, licenses_in in _MANIFESTS.items():
        try:
            names = licenses_in(_read(folder / name))
        except (ValueError, AttributeError, TypeError):  # damaged, or of another layout
            continue
        ids = [id_ for each in names if isinstance(each, str) and (id_ := license_of_name(each))]
        if ids:
            return " OR ".join(dict.fromkeys(ids))
    return ""


def _in_package_json(text: str) -> list[Any]:
    manifest = json.loads(text)
    stated = manifest.get("license") or manifest.get("licenses") or []
    return [
        each.get("type") if isinstance(each, dict) else each
        for each in (stated if isinstance(stated, list) else [stated])
    ]


def _in_pyproject(text: str) -> list[Any]:
    manifest = tomllib.loads(text)
    project = manifest.get("project", {})
    stated = project.get("license") or manifest.get("tool", {}).get("poetry", {}).get("license")
    if isinstance(stated, dict):
        stated = stated.get("text")
    return [stated] if stated else _in_classifiers(project.get("classifiers", []))


def _in_cargo(text: str) -> list[Any]:
    manifest = tomllib.loads(text)
    tables = [manifest.get("package", {}), manifest.get("workspace", {}).get("package", {})]
    return [table.get("license") for table in tables]


def _in_classifiers(classifiers: list[Any]) -> list[Any]:
    """Return the last parts of the licence classifiers, of which several state nothing about how they combine."""
    names = [str(each).rpartition("::")[2].strip() for each in classifiers if str(each).startswith("License ::")]
    return names if len(names) == 1 else []


_MANIFESTS = {
    "package.json": _in_package_json,
    "pyproject.toml": _in_pyproject,
    "Cargo.toml": _in_cargo,
    "composer.json": _in_package_json,
}


def license_of_header(source: str) -> str:
    """Return the licence that the first lines of a source file state, by an SPDX tag or by its text; else empty."""
    header = source[:_HEADER_CHARACTERS]
    return license_of_tag(header) or license_of_text(header)


def license_of_metadata(dist_info: Path) -> str:
    """Return the licence that the ``METADATA`` of an installed package names, or that of its licence files.

    ``License-Expression`` is returned as it is; ``License`` and classifiers are converted to an SPDX id.
    """
    text = _read(dist_info / "METADATA")
    metadata = email.parser.HeaderParser().parsestr(text)
    expression = metadata.get("License-Expression")
    if expression:
        return str(expression).strip()
    classifiers = [str(each) for each in metadata.get_all("Classifier", []) if str(each).startswith("License ::")]
    names = [str(metadata.get("License") or ""), *(each.rpartition("::")[2] for each in classifiers)]
    ids = [license_of_name(name) for name in names]
    precise = next((id_ for id_ in ids if id_ and id_ != "BSD"), "")  # "BSD" does not say which BSD licence
    from_files = precise or license_of_folder(dist_info) or license_of_folder(dist_info / "licenses")
    return from_files or next(filter(None, ids), "") or next((name.strip() for name in names if name.strip()), "")[:60]


def _read(path: Path) -> str:
    """Return the text of a file, empty if it cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_BYTES)
    except OSError:
        return ""
