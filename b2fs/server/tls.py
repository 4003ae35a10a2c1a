"""TLS contexts, and the certificate that `--tls-self-signed` makes and keeps."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import ssl
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from b2fs.errors import ConfigError

_VALID_DAYS = 825


def server_context(cert_file: str, key_file: str) -> ssl.SSLContext:
    """A context for HTTP/1.1 servers.  Raises ConfigError for unusable files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(cert_file, key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"the TLS certificate {cert_file} cannot be used: {error}") from error
    context.set_alpn_protocols(["http/1.1"])
    return context


def self_signed(directory: str, names: Sequence[str]) -> tuple[str, str]:
    """Certificate and key files for these host names under directory; made if missing, foreign or expired."""
    cert_file, key_file = os.path.join(directory, "cert.pem"), os.path.join(directory, "key.pem")
    wanted = sorted({*names, "localhost", "*.localhost", "127.0.0.1", "::1", socket.gethostname()})
    if not _is_good(cert_file, key_file, wanted):
        os.makedirs(directory, mode=0o700, exist_ok=True)
        _make(cert_file, key_file, wanted)
    return cert_file, key_file


def _is_good(cert_file: str, key_file: str, wanted: Sequence[str]) -> bool:
    try:
        with open(cert_file, "rb") as file:
            certificate = x509.load_pem_x509_certificate(file.read())
        os.stat(key_file)
    except (OSError, ValueError):
        return False
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    known = {str(name.value) for name in names}
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    return set(wanted) <= known and certificate.not_valid_after_utc > soon


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _make(cert_file: str, key_file: str, names: Sequence[str]) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "b2fs serve")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=_VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write(key_file, pem)
    _write(cert_file, certificate.public_bytes(serialization.Encoding.PEM))


def _write(path: str, data: bytes) -> None:
    """Put a file in place at once, readable by its owner only."""
    temporary = f"{path}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
    os.replace(temporary, path)
