"""Under which names a server answers. A web page of any place can have its own name lead to this
machine (DNS rebinding): to the browser the server is then of that page's origin, and the Host
header alone tells. Starlette's TrustedHostMiddleware looks at it, too, but does not say what to do,
and looks at no Origin.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from lafite_shifted.errors import InputError

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")


@dataclass(frozen=True)
class Hosts:
    """Hosts that are answered: names and addresses in lower case, without port and brackets."""

    names: frozenset[str] | None = None  # None: all
    # every IP address, too: a browser sends one only to a page that it has from this very address
    addresses: bool = False

    @classmethod
    def of(cls, given: str, bound: str, allowed: Sequence[str]) -> "Hosts":
        """Of a server whose --host is `given`, and which has `bound` that IP address: on loopback
        its names and `allowed`, elsewhere every name unless some are `allowed`. InputError for what
        is no name.
        """
        names = LOOPBACK | {given.lower(), bound, *map(_checked, allowed)}
        if ipaddress.ip_address(bound).is_loopback:
            return cls(names)
        return cls(names, addresses=True) if allowed else cls()

    def answers(self, host: str) -> bool:
        """Whether a request with this Host header is answered."""
        if self.names is None:
            return True
        name = _without_port(host)
        return name in self.names or (self.addresses and _is_address(name))

    def trusts(self, origin: str, host: str) -> bool:
        """Whether a page of this Origin may send to this Host: a page of the server itself, or of
        one of its names at another port.
        """
        place = _place(origin)
        return place == host or (self.names is not None and _without_port(place) in self.names)


class HostCheck:
    """Answers 400 to a Host that is not this server's, and 403 to a POST by a page of another."""

    def __init__(self, app: ASGIApp, *, hosts: Hosts):
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self.app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self.hosts.answers(host):
            name = _without_port(host)
            told = f"This server does not answer as {name[:300]!r}. If it shall, {_flag(name)}."
            return JSONResponse({"detail": told}, 400)
        if scope["method"] != "POST" or origin is None or self.hosts.trusts(origin, host):
            return None
        flag = _flag(_without_port(_place(origin)))
        told = f"A page of {origin[:300]!r} may not send this. If it may, {flag}."
        return JSONResponse({"detail": told}, 403)


def _flag(name: str) -> str:
    """What to do, so that a host is answered."""
    return f"start it with --allow-host {name if _is_host(name) else 'NAME'}"


def _place(origin: str) -> str:
    """`http://[::1]:8000` as `[::1]:8000`; of `null` nothing."""
    found = re.fullmatch(r"https?://([^/]+)", origin)
    return found[1] if found else ""


def _without_port(host: str) -> str:
    """`[::1]:8000` as `::1`."""
    found = re.fullmatch(r"\[(.*)\](:\d*)?|([^:]*)(:\d*)?", host.strip().lower())
    return (found[1] or found[3] or "") if found else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_host(name: str) -> bool:
    return _is_address(name) or _NAME.fullmatch(name) is not None


def _checked(name: str) -> str:
    """A name as `Hosts` has it; InputError where it is none."""
    plain = name.strip().lower().removeprefix("[").removesuffix("]")
    if not _is_host(plain):
        raise InputError(
            f"--allow-host {name}: this is no host. Give a name or an address, without http:// and "
            "without a port, such as images.example.org."
        )
    return plain
