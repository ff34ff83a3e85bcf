"""Secrets out of texts that are kept or shown: a cause of failure may quote whatever its author's code held.

Nothing that a study writes needs one, so each is replaced where a text enters the log, by its name where that is known.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

_LEAST = 8
"""Shortest value of an environment variable that counts as a secret [characters]; shorter ones are words."""
_NAME = r"(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|(?:API_?|ACCESS_?|PRIVATE_?)KEY|CREDENTIALS?)"
_SECRET_NAME = re.compile(rf"(?:{_NAME}|(?:^|_)KEY)(?:_ID)?$", re.IGNORECASE)
_USERINFO = re.compile(r"(?<![a-z0-9+.-])([a-z][a-z0-9+.-]*://)[^\s/?#]*@", re.IGNORECASE)
_ASSIGNED = re.compile(rf"(?<![\w.-])([\w.-]*{_NAME}[\"']?\s*[=:]\s*[\"']?)[^\s\"',;&]{{6,}}", re.IGNORECASE)
_AUTHORIZED = re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]{6,}", re.IGNORECASE)
_KNOWN = re.compile(r"\b(?:AKIA[0-9A-Z]{16}|hf_\w{20,}|gh[a-z]_\w{20,}|sk-[\w-]{20,}|xox[a-z]-[\w-]{10,})")


def redact(text: str, environ: Mapping[str, str] | None = None) -> str:
    """A text without secrets: values of secret environment variables, user names in URIs, tokens and passwords.

    Args:
        text: any.
        environ: environment variables; the process's own if None.

    >>> redact("GET s3://me:hunter2@host/x?token=abcdefgh failed", {})
    'GET s3://***@host/x?token=*** failed'
    >>> redact("no such model: abc123def456", {"HF_TOKEN": "abc123def456"})
    'no such model: [HF_TOKEN]'
    """
    return _without(_secrets(environ), text)


def redacted(tree: Any, environ: Mapping[str, str] | None = None) -> Any:  # noqa: ANN401  # JSON
    """A JSON tree whose texts are; names of fields stay.

    >>> redacted({"data": ["https://me:hunter2@host/x", 3]}, {})
    {'data': ['https://***@host/x', 3]}
    """
    secrets = _secrets(environ)

    def walked(value: Any) -> Any:  # noqa: ANN401  # JSON
        if isinstance(value, str):
            return _without(secrets, value)
        if isinstance(value, Mapping):
            return {name: walked(inner) for name, inner in value.items()}
        return [walked(inner) for inner in value] if isinstance(value, list | tuple) else value

    return walked(tree)


def _secrets(environ: Mapping[str, str] | None) -> dict[str, str]:
    """Secret value -> name of its variable, the longest first, for one may lie inside another."""
    found = {v: n for n, v in (os.environ if environ is None else environ).items() if _is_secret(n, v)}
    return {value: found[value] for value in sorted(found, key=len, reverse=True)}


def _without(secrets: Mapping[str, str], text: str) -> str:
    for value, name in secrets.items():
        text = text.replace(value, f"[{name}]")
    text = _KNOWN.sub("***", _USERINFO.sub(r"\1***@", text))
    return _AUTHORIZED.sub(r"\1 ***", _ASSIGNED.sub(_hidden, text))


def _is_secret(name: str, value: str) -> bool:
    return len(value) >= _LEAST and not value.startswith("/") and _SECRET_NAME.search(name) is not None


def _hidden(match: re.Match[str]) -> str:
    return match.group(1) if match.group(0).endswith("]") else f"{match.group(1)}***"
