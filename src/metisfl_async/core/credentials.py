"""Whose certificate and whose token is whose: what the files say that users write, or our commands do."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence

from metisfl_async.core.access import Identity, identity_from_uri, parsed_identity
from metisfl_async.core.errors import ConfigError

__all__ = ["Tokens", "digest_of", "identity_of", "new_secret", "revoked_of", "subjects_of"]

PREFIX = "mfl_"  #: of every secret, so that tools that look for lost secrets find it


def new_secret() -> str:
    """Make a token: 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(secret: str) -> str:
    """Make what a file keeps instead of the secret: its SHA-256."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Tokens:
    """A file of tokens: a line ``role/name digest`` for each; a name may have several, for a change without a gap."""

    def __init__(self, text: str) -> None:
        self._owners: dict[str, list[tuple[bytes, Identity]]] = {}
        for number, line in _lines(text):
            owner, _, digest = line.rpartition(" ")
            if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
                raise ConfigError(f"line {number}", line, "role/name, a space, and a SHA-256 in hexadecimal digits")
            identity = parsed_identity(f"line {number}", owner.strip())
            self._owners.setdefault(digest[:8], []).append((digest.encode(), identity))

    def owner(self, digest: str) -> Identity | None:
        """Say whose token it is. The rest of the digest is compared in constant time."""
        found = None
        for known, identity in self._owners.get(digest[:8], ()):
            if hmac.compare_digest(known, digest.encode()):
                found = identity
        return found


def subjects_of(text: str) -> dict[str, Identity]:
    """Read a file that says whose certificates are whose: a line ``role/name = subject`` for each.

    The subject is as ``openssl x509 -subject -nameopt RFC2253`` prints it.
    """
    subjects = {}
    for number, line in _lines(text):
        owner, _, subject = line.partition(" = ")
        if not subject.strip():
            raise ConfigError(f"line {number}", line, "role/name, ' = ', and the subject of a certificate")
        subjects[subject.strip()] = parsed_identity(f"line {number}", owner.strip())
    return subjects


def revoked_of(text: str) -> frozenset[int]:
    """Read a file of serial numbers of certificates, in hexadecimal digits, one a line; colons may be between."""
    numbers = set()
    for number, line in _lines(text):
        try:
            numbers.add(int(line.replace(":", ""), 16))
        except ValueError:
            raise ConfigError(f"line {number}", line, "a serial number in hexadecimal digits") from None
    return frozenset(numbers)


def identity_of(uris: Iterable[str], subject: str, subjects: Mapping[str, Identity]) -> Identity | None:
    """Say whose certificate it is: what the file of subjects says, else its own URI, if it has one of ours."""
    if (mapped := subjects.get(subject)) is not None:
        return mapped
    found: Sequence[Identity] = [identity for uri in uris if (identity := identity_from_uri(uri)) is not None]
    return found[0] if len(found) == 1 else None


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if (content := line.strip()) and not content.startswith("#"):
            yield number, content
