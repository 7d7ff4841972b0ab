"""Who calls over gRPC: finds out from the certificate or the token, before a byte of the request is looked at."""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Generic, TypeVar

import grpc.aio

from metisfl_async.core.access import Caller, Identity, authorise
from metisfl_async.core.config import ServerParams
from metisfl_async.core.credentials import Tokens, digest_of, identity_of, revoked_of, subjects_of
from metisfl_async.core.errors import AccessDenied, ConfigError, ConnectionLost, MetisError
from metisfl_async.transport.audit import Audit

__all__ = ["MOST_PAUSE_S", "REFUSALS_PER_S", "Access", "Refusals"]

logger = logging.getLogger(__name__)

LOOK_S = 0.5  #: between two looks at the files
BEARER = "Bearer "
REFUSALS_PER_S = 100  #: to strangers, together, and to each party with a credential
MOST_PAUSE_S = 1.0  #: before a refusal
OFTEN_S = 0.1  #: a party that has to wait so long before a refusal is written down
MOST_CALLS = 32  #: of one party; an honest one has a handful, and some more while its connection breaks again and again

T = TypeVar("T")


class _Watched(Generic[T]):
    """What a file says, as of its last change; while it says nothing that can be understood, what it said before."""

    def __init__(self, field: str, file: str | Path | None, read: Callable[[str], T]) -> None:
        self._field, self._file, self._read = field, Path(file) if file is not None else None, read
        self._seen: tuple[int, int, int] | None = None
        self.value = read("")
        if self._file is not None:
            self._seen = self._stamp()
            self.value = self._parsed(self._file)

    def look(self) -> bool:
        """Say whether the file has changed, and take it over."""
        if self._file is None:
            return False
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return False
            value = self._parsed(self._file)
            self._seen = stamp
        except (ConfigError, OSError) as error:
            if self._seen is not None:
                logger.error("what %s says cannot be used, what it said before stays: %s", self._file, error)
            self._seen = None  # said once; it is read again until it can be used
            return False
        self.value = value
        return True

    def _parsed(self, file: Path) -> T:
        try:
            return self._read(file.read_text())
        except ConfigError as error:
            raise ConfigError(f"{self._field}: {file}: {error.field}", error.value, error.allowed) from None
        except UnicodeDecodeError as error:
            raise ConfigError(self._field, str(file), "a text file in UTF-8") from error

    def _stamp(self) -> tuple[int, int, int]:
        assert self._file is not None
        found = self._file.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns


class Refusals:
    """Spreads refusals over time: whoever calls and calls to be refused has to wait, and the others have not."""

    def __init__(self) -> None:
        self._next_at = -math.inf

    def pause_s(self, now: float) -> float:
        """Say how long a refusal waits that is due now; none waits for longer than `MOST_PAUSE_S`."""
        at = max(now, self._next_at)
        self._next_at = at + 1 / REFUSALS_PER_S
        return (at - now) % MOST_PAUSE_S  # with more of them, more come at a time, but not all at once


class Access:
    """Lets calls in, or not, and ends those whose credential is revoked.

    Parameters
    ----------
    service : str
        The full name of ours.
    params : ServerParams
    on_revoked : callable
        Is told whose credential it was, when a call of its was ended.
    """

    def __init__(self, service: str, params: ServerParams, on_revoked: Callable[[Identity], object]) -> None:
        self._service, self._on_revoked = service, on_revoked
        self._asks_for_certificates = params.require_client_certificate
        self._asks = params.asks_for_credentials
        self._tokens = _Watched("tokens", params.tokens, Tokens)
        self._subjects = _Watched("subjects", params.subjects, subjects_of)
        self._revoked = _Watched("revoked", params.revoked, revoked_of)
        self._calls: dict[asyncio.Task[object], tuple[grpc.aio.ServicerContext, Caller]] = {}  # that are under way
        self._open: Counter[Identity] = Counter()  # calls that gRPC keeps, also those that have ended for us
        self._ended: set[asyncio.Task[object]] = set()  # those of them whose credential was revoked
        if params.revoked is not None and find_spec("cryptography") is None:
            raise ConfigError("revoked", str(params.revoked), "None, or pip install cryptography")
        self._audit = Audit()
        self._refusals: defaultdict[Identity | None, Refusals] = defaultdict(Refusals)  # None: to strangers, together

    @asynccontextmanager
    async def admitted(
        self, context: grpc.aio.ServicerContext, method: str, service: str | None = None
    ) -> AsyncIterator[Caller]:
        """Around a call: find out who calls, and whether it may.

        Raises
        ------
        AccessDenied
            If it may not, or when its credential was revoked meanwhile.
        ConnectionLost
            If the caller has too many calls already.
        """
        try:
            caller = self._caller(context)
        except AccessDenied:
            self._audit.note("refused", Caller(context.peer()), method=method, why="no credential that is known")
            await asyncio.sleep(self._refusals[None].pause_s(time.monotonic()))
            raise
        try:
            with self._let_in(context, caller, service or self._service, method):
                yield caller
        except MetisError:
            if caller.identity is not None:  # where nobody is asked, nobody is told apart
                pause_s = self._refusals[caller.identity].pause_s(time.monotonic())
                if pause_s > OFTEN_S:
                    self._audit.note("refused", caller, method=method, why="again and again")
                await asyncio.sleep(pause_s)
            raise

    @contextmanager
    def _let_in(self, context: grpc.aio.ServicerContext, caller: Caller, service: str, method: str) -> Iterator[None]:
        try:
            authorise(service, method, caller)
        except AccessDenied:
            self._audit.note("refused", caller, method=method, why="its role may not")
            raise
        self._count(context, caller)
        task = asyncio.current_task()
        assert task is not None
        self._calls[task] = context, caller
        try:
            yield
        except AccessDenied:
            self._audit.note("refused", caller, method=method, why="the learner_id that it says is not its own")
            raise
        except asyncio.CancelledError:
            if task not in self._ended:
                raise
            raise AccessDenied from None
        finally:
            del self._calls[task]
            self._ended.discard(task)

    def _count(self, context: grpc.aio.ServicerContext, caller: Caller) -> None:
        """Bound the calls of one party: of each, gRPC keeps what was written until it is read, even after its end."""
        if (who := caller.identity) is None:
            return  # anybody may do everything
        if self._open[who] >= MOST_CALLS:
            raise ConnectionLost(str(who), f"{MOST_CALLS} of its calls are open, or over and not read to the end")
        self._open[who] += 1
        context.add_done_callback(lambda _: self._gone(who))  # when the caller has all of it, or is gone

    def _gone(self, who: Identity) -> None:
        self._open[who] -= 1
        if not self._open[who]:
            del self._open[who]

    async def watch(self) -> None:
        """Read the files again when they change, and end the calls of those that are out."""
        while self._asks:
            await asyncio.sleep(LOOK_S)
            changes = [watched.look() for watched in (self._tokens, self._subjects, self._revoked)]
            if not any(changes):
                continue
            for task, (context, caller) in list(self._calls.items()):
                if not self._is_still(caller, context):
                    assert caller.identity is not None
                    self._audit.note("revoked", caller)
                    self._on_revoked(caller.identity)
                    self._ended.add(task)
                    task.cancel()

    def _is_still(self, caller: Caller, context: grpc.aio.ServicerContext) -> bool:
        try:
            return self._caller(context) == caller
        except AccessDenied:
            return False

    def _caller(self, context: grpc.aio.ServicerContext) -> Caller:
        peer = str(context.peer())
        if not self._asks:
            return Caller(peer)
        identity = self._of_certificate(context) if self._asks_for_certificates else self._of_token(context)
        if identity is None:
            raise AccessDenied
        return Caller(peer, identity)

    def _of_certificate(self, context: grpc.aio.ServicerContext) -> Identity | None:
        """Read a certificate that gRPC has checked."""
        facts = context.auth_context()

        def texts(name: str) -> list[str]:
            return [fact.decode(errors="replace") for fact in facts.get(name, ())]

        if self._revoked.value and _serial_number("".join(texts("x509_pem_cert"))) in self._revoked.value:
            return None
        subject = "".join(texts("x509_subject"))
        return identity_of(texts("x509_subject_alternative_name"), subject, self._subjects.value)

    def _of_token(self, context: grpc.aio.ServicerContext) -> Identity | None:
        shown = [str(value) for key, value in context.invocation_metadata() or () if key == "authorization"]
        if len(shown) != 1 or not shown[0].startswith(BEARER):
            return None
        return self._tokens.value.owner(digest_of(shown[0].removeprefix(BEARER)))


def _serial_number(certificate: str) -> int:
    from cryptography import x509

    return x509.load_der_x509_certificate(ssl.PEM_cert_to_DER_cert(certificate)).serial_number
