"""Recognise licences by their text or name, as SPDX ids, and tell which SPDX expressions are permissive."""

from __future__ import annotations

import re

PERMISSIVE = frozenset(
    (
        "0BSD Apache-2.0 BlueOak-1.0.0 BSD BSD-2-Clause BSD-3-Clause BSL-1.0 CC0-1.0 HPND ISC MIT MIT-0 MIT-CMU NCSA "
        "PostgreSQL PSF-2.0 Python-2.0 Unlicense X11 Zlib"
    ).split()
)
"""Ids of licences that ask for no more than a notice."""

_GNU_FAMILIES = {"affero": "AGPL", "lesser": "LGPL", "library": "LGPL", "": "GPL"}
_NAMES = (  # as package metadata writes them, which is rarely an SPDX id
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
    (r"unlicense\b", "Unlicense"),
    (r"\bunlicensed\b|proprietary|all rights reserved", "LicenseRef-Proprietary"),
    (r"\bcc0\b", "CC0-1.0"),
    (r"\bzlib\b", "Zlib"),
)
_TAG = re.compile(r"SPDX-License-Identifier:\s*([\w.+\-() ]*[\w.+)])")
_EXPRESSION = re.compile(r"\(*[\w.+-]+\)*(?: (?:OR|AND|WITH) \(*[\w.+-]+\)*)+")
_VERSIONED_ID = re.compile(r"[A-Za-z]\w*(?:-\w+)*-\d+\.\d+(?:-\w+)*\+?")  # GPL-3.0-or-later, CC-BY-4.0
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
    (
        "GNU",  # in the headers of source files
        r"gnu (?:(affero|lesser|library) )?general public license as published by the free software foundation[;,]? "
        r"(?:either )?version (\d(?:\.\d)?)",
    ),
    ("PSF-2.0", "python software foundation license version 2"),
    ("Unlicense", "this is free and unencumbered software released into the public domain"),
    ("CC0-1.0", "cc0 1.0 universal"),
    ("BSL-1.0", "boost software license - version 1.0"),
    ("Zlib", "altered source versions must be plainly marked as such"),
)


def license_of_text(text: str) -> str:
    """Return the SPDX id of the first licence whose characteristic phrase ``text`` holds; empty if it holds none.

    >>> license_of_text("GNU LESSER GENERAL PUBLIC LICENSE\\n  Version 3, 29 June 2007")
    'LGPL-3.0'
    """
    flat = " ".join(re.sub(r"[*#/\"'`]+", " ", text).split()).lower()
    matches = [(match.start(), name, match) for name, phrase in _PHRASES if (match := re.search(phrase, flat))]
    if not matches:
        return ""
    start, name, match = min(matches, key=lambda each: each[0])
    license_text = flat[start : start + 2_000]
    if name == "GNU":
        number = match[2] if "." in match[2] else f"{match[2]}.0"
        return f"{_GNU_FAMILIES[match[1] or '']}-{number}"
    if name == "BSD":
        return "BSD-3-Clause" if re.search(r"endorse or promote|neither the name", license_text) else "BSD-2-Clause"
    if name == "MIT" and "permission notice shall be included" not in license_text:
        return "MIT-0"
    if name == "ISC" and "provided that the above copyright notice" not in license_text:
        return "0BSD"
    return name


def license_of_tag(text: str) -> str:
    """Return the expression of the first ``SPDX-License-Identifier:`` in ``text``, empty without one."""
    match = _TAG.search(text)
    return match[1].strip() if match else ""


def license_of_name(name: str) -> str:
    """Return the SPDX expression for a licence as package metadata names it; empty if it is not recognised.

    >>> license_of_name("MIT License"), license_of_name("MIT/Apache-2.0"), license_of_name("GPL-3.0-only")
    ('MIT', 'MIT OR Apache-2.0', 'GPL-3.0-only')
    >>> license_of_name("UNLICENSED"), license_of_name("SEE LICENSE IN terms.txt")
    ('LicenseRef-Proprietary', '')
    """
    if len(name) > 200:  # the whole text
        return license_of_text(name)
    expression = re.sub(r"\b(or|and|with)\b", lambda match: match[0].upper(), " ".join(name.split()))
    expression = re.sub(r"\s*/\s*", " OR ", expression)  # older Cargo.toml files
    if expression.startswith("(") and expression.find(")") == len(expression) - 1:
        expression = expression[1:-1]
    if expression in PERMISSIVE or _EXPRESSION.fullmatch(expression) or _VERSIONED_ID.fullmatch(expression):
        return expression
    return next((id_ for pattern, id_ in _NAMES if re.search(pattern, name.lower())), "")


def is_permissive(expression: str) -> bool:
    """Return whether an SPDX expression is permissive: one side of each OR must be, and all sides of each AND.

    >>> is_permissive("MIT OR GPL-3.0"), is_permissive("MIT AND GPL-3.0"), is_permissive("")
    (True, False, False)
    >>> is_permissive("(MIT OR GPL-3.0) AND GPL-2.0"), is_permissive("Apache-2.0 WITH LLVM-exception")
    (False, True)
    """
    known = {name.lower() for name in PERMISSIVE}
    text = re.sub(r"\s+WITH\s+[\w.+-]+", "", expression, flags=re.IGNORECASE)
    innermost = re.compile(r"\(([^()]*)\)")
    while match := innermost.search(text):
        text = text[: match.start()] + ("MIT" if is_permissive(match[1]) else "unknown") + text[match.end() :]
    return any(
        all(part.strip().lower() in known for part in re.split(r"\s+AND\s+", side, flags=re.IGNORECASE))
        for side in re.split(r"\s+OR\s+", text, flags=re.IGNORECASE)
    )
