"""`recto serve`: one process or several, with the servers of models beside them where wanted."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from logging import WARNING
from pathlib import Path
from typing import Any, NoReturn

import click
import orjson
from starlette.types import ASGIApp
from uvicorn.supervisors import Multiprocess

from files_api.kit.db import Database
from files_api.kit.errors import AppError
from files_api.kit.observe import log, set_up_logs
from model_registry.serving import NoServerError
from ocr_api import app, checks, listening, migrations, servers
from ocr_api.cli.failing import fail
from ocr_api.cli.shared import Urls, configuration, find_card, is_sqlite
from ocr_api.settings import ROLES, Role, Settings, configs

_WORKER_SECONDS = 30
"""How long a worker may leave the parent's question unanswered before it is replaced."""


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65535),
    help="Port; 0 takes a free one.",
)  # fmt: skip
@click.option(
    "--with-vllm", "cards", multiple=True, metavar="CARD",
    help="Start a vLLM server for this model, too; may be repeated.",
)  # fmt: skip
@click.option(
    "--role", type=click.Choice(ROLES),
    help="Serve the files API or the OCR APIs alone; the default is RECTO_ROLE, or both.",
)  # fmt: skip
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(min=1),
    help="API processes (PostgreSQL only).",
)  # fmt: skip
def serve(host: str, port: int, workers: int, cards: Sequence[str], role: str | None) -> None:
    """Serve the APIs over HTTP; on another address than loopback once there are API keys."""
    if role is not None:
        os.environ["RECTO_ROLE"] = role  # several processes read the settings by themselves
    fleet, urls = _fleet(cards)
    settings, _ = configuration(connect=True, engine_urls=urls)
    if not _is_loopback(host) and (problems := checks.keys_problems(settings, host)):
        fail(*problems)
    if workers > 1 and is_sqlite(settings):
        fail("--workers above 1 needs PostgreSQL (RECTO_DATABASE_URL): SQLite has one writer.")
    _ignore_hang_up()
    # Listen before the database is opened: a second server must not touch it.
    with _listen(host, port) as listener, _running(fleet):
        set_up_logs(settings.log_level)
        if settings.secret_key is None and not is_sqlite(settings):
            file = str(settings.data_dir / "secret.key")  # other hosts have another one
            log(__name__, "secret_key_not_set", level=WARNING, keys_are_good_only_with=file)
        if workers == 1:
            started = _serve_here(settings, listener)
        else:
            started = _serve_in_processes(settings, listener, workers)
    if not started:
        fail("The service could not start; the log lines above say why.")


def _fleet(names: Sequence[str]) -> tuple[servers.Servers | None, Urls | None]:
    """Return the servers that are wanted, not started, and the addresses with theirs among them."""
    if not names:
        return None, None
    settings, problems = checks.read_settings()
    if problems:
        fail(*problems)
    try:
        program = servers.find_vllm(settings.vllm_bin, configs().parent)
        cards = {card.id: card for card in (find_card(settings, name) for name in names)}
        fleet = servers.Servers(
            [*cards.values()],
            program,
            settings.data_dir / "vllm",
            plugins=configs() / "vllm",
            say=lambda line: click.echo(line, err=True),
        )
    except (NoServerError, servers.VllmMissing) as error:
        fail(str(error))
    ours = {name for card in cards.values() for name in (card.id, *card.aliases)}
    urls = {name: given for name, given in settings.engine_urls.items() if name not in ours}
    return fleet, urls | {name: (url,) for name, url in fleet.urls.items()}


@contextmanager
def _running(fleet: servers.Servers | None) -> Iterator[None]:
    """Run the servers while the context is open; enter when all of them answer."""
    if fleet is None:
        yield
        return
    ready = False
    try:
        with _interrupted_by(signal.SIGTERM), servers.beside(fleet):
            ready = True
            yield
    except servers.ServerFailed as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("Stopped." if ready else "Stopped while the vLLM servers were starting.")


@contextmanager
def _interrupted_by(number: int) -> Iterator[None]:
    """Let a signal raise KeyboardInterrupt: uvicorn sends itself the one that ended it.

    Else we would die of it before the servers of models are stopped.
    """

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(number, interrupt)
    try:
        yield
    finally:
        signal.signal(number, before)


def worker() -> ASGIApp:
    """Return the application of one of several processes; reads the settings by itself."""
    _ignore_hang_up()
    settings = Settings()
    set_up_logs(settings.log_level)
    return app.create(settings)


def _ignore_hang_up() -> None:
    """Let no SIGHUP end the process: it means the routes, which the service reads if it has any."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; connections wait in it until the service has started."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(listening.BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            fail(
                f"Port {port} on {host} is in use: choose another one with --port "
                "(PORT=... where make starts the service), or stop what listens there."
            )
        fail(f"Cannot listen on {host}, port {port}: {error.strerror or error}.")
    return listener


def _serve_here(settings: Settings, listener: socket.socket) -> bool:
    """Serve until a signal; return whether the service ever started."""
    try:
        service = app.create(settings)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror or error}.")
    server = _Announcing(_connections(settings, service))
    server.role = settings.role
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        pass  # uvicorn has ended in order and tells of the signal; it is no failure
    except SystemExit:
        if server.started:
            raise
    return server.started


def _serve_in_processes(settings: Settings, listener: socket.socket, workers: int) -> bool:
    """Serve from several processes until a signal; return whether one of them ever started."""
    try:
        # Here and once, for one plain sentence instead of one from each process.
        asyncio.run(_prepare(settings))
    except migrations.WrongRevision as error:
        fail(f"RECTO_DATABASE_URL: {error}")
    except AppError as error:
        fail(f"RECTO_DATABASE_URL: {error.message}")
    # For the workers, which read the settings by themselves.
    os.environ["RECTO_ENGINE_URLS"] = orjson.dumps(settings.engine_urls).decode()
    supervisor = _Workers(
        _connections(
            settings,
            "ocr_api.cli.serving:worker",
            factory=True,
            workers=workers,
            timeout_worker_healthcheck=_WORKER_SECONDS,
        ),
        sockets=[listener],
    )
    supervisor.role = settings.role
    supervisor.run()
    return supervisor.announced


def _connections(settings: Settings, service: ASGIApp | str, **more: Any) -> listening.Config:
    """Return how connections are served; ``more`` goes to uvicorn."""
    return listening.configure(
        service, settings.header_seconds, drain_seconds=settings.drain_seconds, **more
    )


async def _prepare(settings: Settings) -> None:
    database = Database(settings.effective_database_url())
    try:
        await migrations.prepare(database)
    finally:
        await database.close()


class _Announcing(listening.Server):
    """Says where it listens once it does."""

    role: Role = "all"
    """What it serves, as it says."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then print the address and a line to paste."""
        await super().startup(sockets)
        if self.started:
            _announce(self.servers[0].sockets[0], self.role)


class _Workers(Multiprocess):
    """Keeps several processes alive; says where they listen once one of them does."""

    announced = False
    role: Role = "all"
    """What they serve, as they say."""

    def handle_hup(self) -> None:
        """Have each worker read its routes again; uvicorn would replace the workers."""
        for process in self.processes:
            # One that is not ready would die of the signal, and reads the new routes anyway.
            if process.pid is not None and process.is_ready():
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGHUP)

    def keep_subprocess_alive(self) -> None:
        """Replace what died; called twice a second."""
        super().keep_subprocess_alive()
        if not self.announced and any(process.is_ready() for process in self.processes):
            self.announced = True
            _announce(self.sockets[0], self.role)


def _announce(listener: socket.socket, role: Role) -> None:
    host, port = listener.getsockname()[:2]
    base = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    click.echo(f"Recto listens on {base} (docs: {base}/docs). Try it in another terminal:\n")
    # Another address than loopback is served with keys only.
    click.echo(f"  {example_line(base, with_key=not _is_loopback(host), role=role)}\n")


def example_line(base: str, *, with_key: bool = False, role: Role = "all") -> str:
    """Return a curl line that uploads the demo scan and reads its first page.

    A process that serves the files API alone only takes it; one that serves the OCR APIs alone gets
    it inside the request.
    """
    base = base.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
    scan = configs().parent / "docs" / "demo" / "scan.pdf"
    path = scan if scan.exists() else Path("document.pdf")
    curl = 'curl -s -H "Authorization: Bearer $RECTO_KEY"' if with_key else "curl -s"
    upload = f"{curl} {base}/v1/files -F purpose=ocr -F 'file=@{path}'"
    if role == "files":
        return upload
    if role == "ocr":
        document = '{"type": "content", "document_content": "%s"}'
        body = f"""printf '{{"document": {document}, "pages": "0"}}' "$(base64 -w0 '{path}')\""""
        return f"{body} | {curl} {base}/v1/ocr -d @-"
    first_id = "grep -oE '[0-9a-f-]{36}' | head -n 1"
    return f"""{curl} {base}/v1/files/$({upload} | {first_id})/ocr -d '{{"pages": "0"}}'"""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
