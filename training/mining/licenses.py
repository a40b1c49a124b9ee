"""Which licence a source is under: from its files, its headers or a package's metadata."""

from __future__ import annotations

import email.parser
import re
from pathlib import Path

PERMISSIVE = frozenset(
    (
        "0BSD Apache-2.0 BSD BSD-2-Clause BSD-3-Clause BSL-1.0 CC0-1.0 HPND ISC MIT MIT-0 MIT-CMU NCSA PSF-2.0 "
        "Python-2.0 Unlicense Zlib"
    ).split()
)
"""Licences that ask for no more than a notice."""

_FILE = re.compile(r"(?:licen[cs]e|copying|unlicense|notice)(?:$|[.\-_])", re.IGNORECASE)
_HEADER = re.compile(r"SPDX-License-Identifier:\s*([\w.+\-() ]*[\w.+)])")
_GNU = {"affero": "AGPL", "lesser": "LGPL", "library": "LGPL", "": "GPL"}
_NAMES = (  # of metadata, which is rarely SPDX
    (r"apache.*2", "Apache-2.0"),
    (r"\bmit\b.*\bcmu\b|\bhpnd\b", "HPND"),
    (r"\bmit\b", "MIT"),
    (r"\b(?:3[- ]clause|new|modified|revised)\b.*\bbsd\b|\bbsd\b.*\b(?:3|new|modified|revised)\b", "BSD-3-Clause"),
    (r"\b2[- ]clause\b|\bbsd\b.*\b2\b|\bsimplified\b", "BSD-2-Clause"),
    (r"\bbsd\b", "BSD"),
    (r"\bisc\b", "ISC"),
    (r"\bmpl|mozilla", "MPL-2.0"),
    (r"agpl|affero", "AGPL-3.0"),
    (r"lgpl|lesser general", "LGPL"),
    (r"gpl.*3|general public.*3", "GPL-3.0"),
    (r"gpl|general public", "GPL-2.0"),
    (r"\bpsf\b|python software foundation", "PSF-2.0"),
    (r"unlicense", "Unlicense"),
    (r"\bcc0\b", "CC0-1.0"),
    (r"\bzlib\b", "Zlib"),
)
_PHRASES = (
    ("MIT", "permission is hereby granted, free of charge, to any person obtaining a copy of this software and"),
    ("Apache-2.0", "apache license,? version 2.0"),
    ("BSD", "redistribution and use in source and binary forms"),
    (
        "ISC",
        "permission to use, copy, modify, and(?: or)? distribute this software for any purpose with or without fee",
    ),
    ("MPL-2.0", r"mozilla public license,? (?:version|v\.) ?2.0"),
    ("GNU", r"gnu (?:(affero|lesser|library) )?general public license,? version (\d(?:\.\d)?)"),
    ("PSF-2.0", "python software foundation license version 2"),
    ("Unlicense", "this is free and unencumbered software released into the public domain"),
    ("CC0-1.0", "cc0 1.0 universal"),
    ("BSL-1.0", "boost software license - version 1.0"),
    ("Zlib", "altered source versions must be plainly marked as such"),
)


def license_of_text(text: str) -> str:
    """Return the SPDX id of the licence that ``text`` holds first, by phrases of it; empty if it is none of those.

    >>> license_of_text("GNU LESSER GENERAL PUBLIC LICENSE\\n  Version 3, 29 June 2007")
    'LGPL-3.0'
    """
    flat = " ".join(re.sub(r"[*#/\"'`]+", " ", text).split()).lower()
    found = [(match.start(), name, match) for name, phrase in _PHRASES if (match := re.search(phrase, flat))]
    if not found:
        return ""
    start, name, match = min(found, key=lambda each: each[0])
    behind = flat[start : start + 2_000]
    if name == "GNU":
        number = match[2] if "." in match[2] else f"{match[2]}.0"
        return f"{_GNU[match[1] or '']}-{number}"
    if name == "BSD":
        return "BSD-3-Clause" if re.search(r"endorse or promote|neither the name", behind) else "BSD-2-Clause"
    if name == "MIT" and "permission notice shall be included" not in behind:
        return "MIT-0"
    if name == "ISC" and "provided that the above copyright notice" not in behind:
        return "0BSD"
    return name


def license_of_folder(folder: Path) -> str:
    """Return the SPDX id of the licence file that lies in ``folder``, or its name if unknown; empty without one."""
    try:
        files = sorted(path for path in folder.iterdir() if _FILE.match(path.name) and path.is_file())
    except OSError:
        return ""
    files = [path for path in files if path.suffix not in (".py", ".js", ".go", ".rs", ".java", ".c", ".h")]
    files.sort(key=lambda path: path.name.lower().startswith("notice"))
    known = (license_of_text(path.read_text(encoding="utf-8", errors="replace")) for path in files)
    return next(filter(None, known), files[0].name if files else "")


def license_of_header(source: str) -> str:
    """Return what the SPDX header in the first lines of a source says, empty without one."""
    match = _HEADER.search(source[:2_000])
    return match[1].strip() if match else ""


def license_of_metadata(dist_info: Path) -> str:
    """Return the licence that an installed package names in its METADATA, or that of its licence files.

    ``License-Expression`` is taken as it is; ``License`` and classifiers are brought to an SPDX id.
    """
    try:
        text = (dist_info / "METADATA").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    metadata = email.parser.HeaderParser().parsestr(text)
    expression = metadata.get("License-Expression")
    if expression:
        return str(expression).strip()
    classifiers = [str(each) for each in metadata.get_all("Classifier", []) if str(each).startswith("License ::")]
    named = [str(metadata.get("License") or ""), *(each.rpartition("::")[2] for each in classifiers)]
    ids = [_id_of_name(name) for name in named]
    precise = next((id_ for id_ in ids if id_ and id_ != "BSD"), "")  # "BSD" leaves open which
    from_files = precise or license_of_folder(dist_info) or license_of_folder(dist_info / "licenses")
    return from_files or next(filter(None, ids), "") or next((name.strip() for name in named if name.strip()), "")[:60]


def _id_of_name(name: str) -> str:
    if len(name) > 200:
        return license_of_text(name)
    return next((id_ for pattern, id_ in _NAMES if re.search(pattern, name.lower())), "")


def is_permissive(expression: str) -> bool:
    """Say whether an SPDX expression is permissive: one side of each OR, all of each AND.

    >>> is_permissive("MIT OR GPL-3.0"), is_permissive("MIT AND GPL-3.0"), is_permissive("")
    (True, False, False)
    """
    known = {name.lower() for name in PERMISSIVE}
    return any(
        all(part.split(" WITH ")[0].strip("() ").lower() in known for part in side.split(" AND "))
        for side in expression.split(" OR ")
    )
