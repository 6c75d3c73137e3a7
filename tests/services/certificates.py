"""Certificates of small authorities, made for the time of a test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from imaging_ai.core.tls import Identity

__all__ = ["Authority", "fingerprint"]

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Authority:
    """Issues certificates into a folder; `ca_file` is its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.ca_file = folder, folder / "ca.pem"
        self._name = _name(f"Authority of {folder.name}")
        self._key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(self._name, self._name, self._key, days=2)
        signed = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.ca_file.write_bytes(_pem(signed.sign(self._key, hashes.SHA256())))

    def issue(self, name: str, *, host: str = "localhost", days: float = 2, rsa_bits: int = 0) -> Identity:
        """Issue a certificate for ``O=Clinic,CN=name``, good for 127.0.0.1 and `host`; ``days < 0`` are over."""
        key: Key = rsa.generate_private_key(65537, rsa_bits) if rsa_bits else ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName(host)]
        at = [x509.IPAddress(ip_address("127.0.0.1"))] if host == "localhost" else []
        builder = _builder(_name(name), self._name, key, days=days)
        signed = builder.add_extension(x509.SubjectAlternativeName([*names, *at]), critical=False)
        issued = Identity(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        issued.certificate.write_bytes(_pem(signed.sign(self._key, hashes.SHA256())))
        issued.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        issued.key.chmod(0o600)
        return issued


def fingerprint(identity: Identity) -> str:
    """The SHA-256 fingerprint of a certificate, as openssl writes it."""
    found = x509.load_pem_x509_certificate(identity.certificate.read_bytes()).fingerprint(hashes.SHA256())
    return ":".join(f"{byte:02X}" for byte in found)


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Clinic"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _builder(subject: x509.Name, issuer: x509.Name, key: Key, *, days: float) -> x509.CertificateBuilder:
    end = datetime.now(UTC) + timedelta(days=days)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(end - timedelta(days=max(days, 0) + 30)).not_valid_after(end)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
