"""Makes the certificates that TLS needs: an authority of your own, and pairs that it has signed."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from metisfl_async.core.access import Identity, Role
from metisfl_async.core.errors import ConfigError

__all__ = ["make_certificates"]

AUTHORITY = "ca"
HERE = ("localhost", "127.0.0.1", "::1")  #: in every certificate, so that it also works on one machine
CLOCK_SKEW = timedelta(hours=1)  #: between the machine that makes it and those that check it

Pair = tuple[x509.Certificate, EllipticCurvePrivateKey]


def make_certificates(
    folder: Path,
    names: Sequence[str],
    hosts: Sequence[str],
    days: int,
    *,
    identities: Sequence[Identity] = (),
    force: bool,
) -> list[Path]:
    """Write NAME.pem and NAME.key for each name, signed by the authority in ca.pem and ca.key.

    Parameters
    ----------
    folder : Path
        Made if it is not there. An authority that is there is used again.
    names : sequence of str
        Names of the files, and of whom they are for.
    hosts : sequence of str
        Host names and IP addresses by which they may be dialled, beside those of the own machine.
    days : int
        How long they are good; an authority ten times as long.
    identities : sequence of Identity
        For whom a pair is made that says who they are, in files of their names. Servers' pairs, of `names`, say that
        they are a controller's.
    force : bool
        Overwrite the pairs; never the authority, which would make all other pairs worthless.

    Returns
    -------
    list of Path
        What was written.
    """
    alternatives = [_alternative(host) for host in dict.fromkeys([*hosts, *HERE])]
    whose = {name: Identity(Role.CONTROLLER, name) for name in names} | {each.name: each for each in identities}
    if len(whose) < len({*names}) + len(identities):
        raise ConfigError("names", [*names, *(each.name for each in identities)], "each name once: it names the files")
    for name in whose:
        if name == AUTHORITY or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
            raise ConfigError("--name", name, f"letters, digits, '-', '_' and '.'; not {AUTHORITY!r}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("DIR", str(folder), f"a directory that can be written to ({error.strerror})") from error
    files = [folder / f"{name}.{kind}" for name in whose for kind in ("pem", "key")]
    if not force and (there := [file for file in files if file.exists()]):
        raise ConfigError("DIR", str(there[0]), "a file that is not there yet; --force overwrites it")
    authority_files = folder / f"{AUTHORITY}.pem", folder / f"{AUTHORITY}.key"
    is_new = not any(file.exists() for file in authority_files)
    authority = _write(*authority_files, _new_authority(10 * days)) if is_new else _read(*authority_files)
    for name, identity in whose.items():
        said = [*alternatives, x509.UniformResourceIdentifier(identity.uri)]
        _write(folder / f"{name}.pem", folder / f"{name}.key", _new_pair(name, said, days, authority))
    return [*(authority_files if is_new else ()), *files]


def _new_authority(days: int) -> Pair:
    key = generate_private_key(SECP256R1())
    subject = _subject("metisfl-async authority")
    usage = _usage(signs_certificates=True)
    identity = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = _builder(subject, subject, key, days).add_extension(x509.BasicConstraints(True, 0), critical=True)
    builder = builder.add_extension(usage, critical=True).add_extension(identity, critical=False)
    return builder.sign(key, SHA256()), key


def _new_pair(name: str, alternatives: list[x509.GeneralName], days: int, authority: Pair) -> Pair:
    """Sign a certificate that is good at both ends of a connection."""
    key = generate_private_key(SECP256R1())
    certificate, signing_key = authority
    both_ends = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    identity = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key())
    builder = _builder(_subject(name), certificate.subject, key, days)
    builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(both_ends), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    builder = builder.add_extension(identity, critical=False).add_extension(issuer, critical=False)
    return builder.sign(signing_key, SHA256()), key


def _builder(subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return x509.CertificateBuilder(
        issuer, subject, key.public_key(), x509.random_serial_number(), now - CLOCK_SKEW, now + timedelta(days=days)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        pass
    try:
        if not host or set(host) & set(":/@ "):
            raise ValueError
        return x509.DNSName(host)
    except ValueError:
        raise ConfigError("--host", host, "a host name in ASCII or an IP address, without a port") from None


def _write(certificate_file: Path, key_file: Path, pair: Pair) -> Pair:
    certificate, key = pair
    _replace(key_file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    _replace(certificate_file, certificate.public_bytes(Encoding.PEM), 0o644)
    return pair


def _replace(file: Path, data: bytes, mode: int) -> None:
    """Write a new file; nobody else can read a key, not even for a moment."""
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        stream.write(data)


def _read(certificate_file: Path, key_file: Path) -> Pair:
    allowed = "an authority that this command made; with neither file there, it makes a new one"
    try:
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        key = load_pem_private_key(key_file.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise ConfigError("DIR", str(certificate_file.parent), f"{allowed} ({error})") from error
    if not isinstance(key, EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigError("DIR", str(certificate_file.parent), f"{allowed}; {key_file.name} is another one's")
    return certificate, key
