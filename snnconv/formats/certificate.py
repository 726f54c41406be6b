"""Certificates as files: JSON in one fixed layout, each section sealed by its own hash.

A seal is no signature: it finds changed bytes. That the contents are true is found by computing all of them anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from snnconv.errors import CertificateError, FormatError
from snnconv.runs import file_hash, write_text

FORMAT = "snnconv-certificate"
VERSION = 1
SECTIONS = ("about", "files", "data", "parity", "hardware", "activity")
"""What was certified, on which files and images, and what was found."""

Sections = Mapping[str, Any]


def write_certificate(path: Path, sections: Sections) -> None:
    """Write the sections with their seals, whole or not at all.

    Raises:
        RunError: the folder cannot be written.
    """
    write_text(path, _layout(sections))


def read_certificate(path: Path) -> dict[str, Any]:
    """Sections of a certificate, once every byte of it is known to be as it was written.

    Raises:
        FormatError: missing, no certificate, or of another version.
        CertificateError: changed since; names the section.
    """
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from error
    try:
        text = contents.decode("ascii")
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CertificateError(f"{path} was changed, or is no certificate: {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise FormatError(f"{path} is no certificate of snnconv: `snnconv export --certificate` writes one")
    if values.get("version") != VERSION:
        raise FormatError(f"{path} has certificate version {values.get('version')}; this release reads {VERSION}")
    if list(values) != ["format", "version", *SECTIONS, "seals"] or not isinstance(values["seals"], dict):
        raise CertificateError(f"{path} was changed: it does not have the sections {', '.join(SECTIONS)} and seals")
    for section in SECTIONS:
        if not isinstance(values[section], dict) or values["seals"].get(section) != seal(values[section]):
            raise CertificateError(f"{path} was changed: section {section} is not what was sealed")
    sections = {section: values[section] for section in SECTIONS}
    if text != _layout(sections):
        raise CertificateError(f"{path} was changed: it is not laid out as it was written")
    return sections


def seal(section: Any) -> str:
    """SHA-256 of a section's contents, in hexadecimal."""
    return hashlib.sha256(json.dumps(section, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def differences(found: Any, certified: Any, place: str) -> Iterator[str]:
    """A phrase for each entry of plain values that is not what was certified, such as ``parity.images is 5, not 6``."""
    if isinstance(found, dict) and isinstance(certified, dict):
        for key in [*certified, *(key for key in found if key not in certified)]:
            if key not in found or key not in certified:
                yield f"{place}.{key} is in only one of the two"
            else:
                yield from differences(found[key], certified[key], f"{place}.{key}")
    elif isinstance(found, list) and isinstance(certified, list) and len(found) == len(certified):
        for number, (own, other) in enumerate(zip(found, certified, strict=True)):
            name = other.get("name", number) if isinstance(other, dict) else number
            yield from differences(own, other, f"{place}[{name}]")
    elif found != certified or type(found) is not type(certified):
        yield f"{place} is {_short(found)}, not {_short(certified)} as certified"


def describe_files(folder: Path, names: Mapping[str, str]) -> dict[str, Any]:
    """Name, size and hash of the files that belong to a certificate, by what they are."""
    return {
        what: {"file": name, "bytes": (folder / name).stat().st_size, "sha256": file_hash(folder / name)}
        for what, name in names.items()
    }


def changed_files(folder: Path, names: Mapping[str, str], certified: Mapping[str, Any]) -> list[str]:
    """One phrase for each file that is missing or not the one that was certified.

    Args:
        folder: Where they are.
        names: Of the files that a certificate speaks of, by what they are.
        certified: ``describe_files`` of then.
    """
    found = [f"files.{what} is no file of a certificate" for what in certified if what not in names]
    for what, name in names.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{path} (the {what}) is missing")
        elif describe_files(folder, {what: name}).get(what) != certified.get(what):
            found.append(f"{path} (the {what}) is not the file that was certified: its SHA-256 differs")
    return found


def _layout(sections: Sections) -> str:
    seals = {section: seal(sections[section]) for section in SECTIONS}
    ordered = {section: sections[section] for section in SECTIONS}
    return json.dumps({"format": FORMAT, "version": VERSION, **ordered, "seals": seals}, indent=1) + "\n"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
