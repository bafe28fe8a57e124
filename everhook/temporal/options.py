"""The connection options of Temporal: its own variables (`TEMPORAL_…`) and its own profile file, validated before use.

The SDK reacts to a wrong option with a traceback, with endless connection attempts, or not at all: it takes
`TEMPORAL_TLS=no` for yes, and ignores a missing configuration file.
"""

import os
import re
from collections.abc import Mapping
from ipaddress import AddressValueError, IPv6Address
from pathlib import Path
from typing import Any

from temporalio.envconfig import ClientConfig
from temporalio.service import TLSConfig

from everhook.errors import ConfigurationError

DEFAULT_ADDRESS = "localhost:7233"
DEFAULT_NAMESPACE = "everhook"

_ADDRESS = re.compile(r"(?P<host>\[[^\[\]]*\]|[^\[\]:]+):(?P<port>[0-9]{1,5})")
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?")
_NO_BLANKS = re.compile(r"[\x21-\x7e]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_SWITCH = ("true", "false", "1", "0")
_PROFILE = "TEMPORAL_CONFIG_FILE, TEMPORAL_PROFILE"
_FILES = ("CLIENT_CERT", "CLIENT_KEY", "SERVER_CA_CERT")


def connect_options() -> dict[str, Any]:
    """The options of `Client.connect` from the environment. Raises ConfigurationError, which names the variable.

    An empty variable counts as unset. No value is part of a message, because it may be a secret.
    """
    variables = {name: value for name, value in os.environ.items() if value or not name.startswith("TEMPORAL_")}
    _check_variables(variables)
    options = {"target_host": DEFAULT_ADDRESS, **_loaded(variables)}
    if "TEMPORAL_NAMESPACE" not in variables and options.get("namespace", "default") == "default":
        options["namespace"] = DEFAULT_NAMESPACE
    _check(options)
    return options


def _loaded(variables: Mapping[str, str]) -> dict[str, Any]:
    try:
        return dict(ClientConfig.load_client_connect_config(override_env_vars=variables))
    except OSError as error:  # only a file that the profile names; files of variables were read before
        raise _unusable(_PROFILE, f"cannot read {error.filename}: {error.strerror}") from error
    except (RuntimeError, ValueError) as error:
        # If the file is not TOML, the SDK's message quotes a line, which may be a key.
        raise _unusable(_PROFILE, str(error).partition("\n")[0]) from error


def _check_variables(variables: Mapping[str, str]) -> None:
    """Check what the SDK would not report, or would report only as an error number."""
    if variables.get("TEMPORAL_TLS", "true").lower() not in _SWITCH:
        raise _unusable("TEMPORAL_TLS", "must be true or false")
    for name in ("TEMPORAL_CONFIG_FILE", *(f"TEMPORAL_TLS_{file}_PATH" for file in _FILES)):
        if name in variables:
            _check_file(name, Path(variables[name]))
    for file in _FILES:
        path, data = f"TEMPORAL_TLS_{file}_PATH", f"TEMPORAL_TLS_{file}_DATA"
        if path in variables and data in variables:
            raise _unusable(f"{path}, {data}", "set one of them, not both")


def _check_file(name: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise _unusable(name, f"cannot read {path}: {error.strerror}") from error


def _check(options: Mapping[str, Any]) -> None:
    if not _is_address(options["target_host"]):
        raise _unusable("TEMPORAL_ADDRESS", "not host:port, such as temporal.internal:7233 (without https://)")
    if not _NO_BLANKS.fullmatch(options["namespace"]):
        raise _unusable("TEMPORAL_NAMESPACE", "has a blank, a control character or one outside ASCII")
    if not _NO_BLANKS.fullmatch(options.get("api_key") or "none"):
        raise _unusable("TEMPORAL_API_KEY", "has a blank, a line break or a character outside ASCII")
    for name, value in options.get("rpc_metadata", {}).items():
        if not _HEADER_VALUE.fullmatch(value):
            raise _unusable(f"TEMPORAL_GRPC_META_{name.upper().replace('-', '_')}", "not a header's value")
    if isinstance(tls := options.get("tls"), TLSConfig):
        _check_tls(tls)


def _is_address(text: str) -> bool:
    parts = _ADDRESS.fullmatch(text)
    if parts is None or not 0 < int(parts["port"]) <= 65_535:
        return False
    host = parts["host"]
    return _is_ipv6(host[1:-1]) if host.startswith("[") else _NAME.fullmatch(host) is not None


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except AddressValueError:
        return False
    return True


def _check_tls(tls: TLSConfig) -> None:
    """Check that the certificates and the key can be read. Whether the server accepts them is known only after
    connecting."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509 import load_pem_x509_certificates

    if tls.domain is not None and not _NAME.fullmatch(tls.domain):
        raise _unusable("TEMPORAL_TLS_SERVER_NAME", "not a host name")
    if (tls.client_cert is None) != (tls.client_private_key is None):
        raise _unusable("TEMPORAL_TLS_CLIENT_CERT_…, TEMPORAL_TLS_CLIENT_KEY_…", "set both or neither")
    for file, pem in (("CLIENT_CERT", tls.client_cert), ("SERVER_CA_CERT", tls.server_root_ca_cert)):
        try:
            load_pem_x509_certificates(pem) if pem is not None else None
        except ValueError as error:
            raise _unusable(_either(file), "no certificate in PEM format") from error
    try:
        load_pem_private_key(tls.client_private_key, None) if tls.client_private_key is not None else None
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: the key has a password
        raise _unusable(_either("CLIENT_KEY"), "no private key in PEM format without a password") from error


def _either(file: str) -> str:
    return f"TEMPORAL_TLS_{file}_PATH or TEMPORAL_TLS_{file}_DATA"


def _unusable(name: str, what: str) -> ConfigurationError:
    return ConfigurationError(f"{name}: {what}")
