"""Builds the service: settings meet code here and nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI
from fastapi_swagger import patch_fastapi
from starlette.types import ASGIApp

from files_api.app import FilesService, room_for_documents
from files_api.kit import metrics, named, traces, web
from files_api.kit.bodies import SMALL_BYTES, JsonBodies
from files_api.kit.room import Room
from files_api.routes import router as files_router
from model_registry.card import Card, CardError
from model_registry.registry import Registry, load
from model_registry.routing import Servers, place
from ocr_api import migrations
from ocr_api.apis import Check, Door, ModelServer, Services
from ocr_api.documents import Documents, OpensFiles
from ocr_api.engines import Engine, Supplies
from ocr_api.ledger import Ledger
from ocr_api.outbound import Outbound, OutboundLimits
from ocr_api.pages import Pages
from ocr_api.pipeline import Pipeline, Recorder, RequestLimits
from ocr_api.pipeline.deletions import Deletions
from ocr_api.processes import Limits, Pool
from ocr_api.scheduler import Bounds, Scheduler
from ocr_api.scratch import Scratch
from ocr_api.settings import MIB, Settings
from ocr_api.traffic import Traffic
from ocr_api.traffic.reload import Reloader
from ocr_api.usage import UsageBook, UsageReader

ENGINE_SECONDS = 300.0
"""Longest time of one page in a child, where the engine names none (the card does)."""
ENGINE_TASKS, RENDER_TASKS = 2000, 5000
"""A child is replaced after so many pages, so that no leak of a C library lasts."""

HOUR = 3600.0
AHEAD = 4
"""Pages that are drawn, or wait drawn, per drawing process, before a server has a place for them:
enough for the moment when many answers end together."""
BODIES_AT_ONCE = 4
"""JSON bodies of full length that are held at a time, half of them of one organisation at most;
shorter ones are more."""

ENGINES, PARSERS, DOORS = "ocr_api.engines", "ocr_api.parsers", "ocr_api.apis"


def load_registry(settings: Settings) -> Registry:
    """Return the cards and routes, checked together with the names of the doors.

    Raises:
        CardError: with every problem of every file.
    """
    doors = named.names(DOORS)
    problems = [
        f"RECTO_DOORS: there is no door {door!r}; known: {', '.join(doors)}"
        for door in settings.doors
        if door not in doors
    ]
    try:
        registry = _load(settings)
    except CardError as error:
        problems += error.problems
    if problems:
        raise CardError(problems)
    return registry


def _load(settings: Settings) -> Registry:
    return load(
        settings.models_dir,
        settings.routes,
        engines=named.names(ENGINES),
        parsers=named.names(PARSERS),
        show_hidden=settings.show_hidden_models,
        urls=settings.engine_urls,
    )


class Workshop:
    """Everything that reads documents. Building it starts nothing; use it as a context."""

    def __init__(
        self,
        settings: Settings,
        files: OpensFiles,
        record: Recorder,
        ledger: Ledger | None = None,
        room: Room | None = None,
    ) -> None:
        """Make the parts; without a ledger every page is read anew.

        ``room`` is for documents that lie on disk while they are read; None means a new one.
        """
        self.registry = load_registry(settings)
        self._outbound = Outbound(_outbound_limits(settings))
        self.pages = Pages(
            settings.count_render_processes(), _render_limits(settings), settings.max_pixels
        )
        key = settings.engine_api_key
        supplies = Supplies(
            partial(_engine_pool, settings), key.get_secret_value() if key else None
        )
        self.engines = {
            name: named.leaf(ENGINES, name, Engine)(supplies)  # type: ignore[type-abstract]
            # Of every card: another routes file may name those that nothing runs now.
            for name in sorted({card.engine for card in self.registry.every_card()})
        }
        self._scratch = Scratch(settings.data_dir / "scratch")
        self._opened = AsyncExitStack()
        documents = Documents(
            files,
            self._outbound,
            self._scratch.path,
            settings.max_file_bytes,
            room or room_for_documents(settings),
        )
        self.traffic = Traffic(self.registry)
        self._scheduler = Scheduler(
            self.engines,
            _bounds(settings, self.pages.places),
            addresses=self.traffic.addresses,
        )
        self.traffic.standing = self._scheduler.standing
        self.traffic.on_look.append(self._scheduler.forget)
        self._ledger = ledger
        self.pipeline = Pipeline(
            self.registry,
            self.engines,
            documents,
            self.pages,
            record,
            self._scheduler,
            ledger,
            RequestLimits(settings.max_pages, settings.request_seconds),
        )

    async def __aenter__(self) -> Workshop:
        """Start the engines, and one process that draws."""
        async with AsyncExitStack() as stack:
            stack.enter_context(self._scratch)
            stack.push_async_callback(self._outbound.close)
            stack.push_async_callback(self.pages.close)
            for engine in self.engines.values():
                stack.push_async_callback(engine.close)
                await engine.start()
            stack.push_async_callback(self._scheduler.close)
            await self._scheduler.start()
            stack.push_async_callback(self.traffic.close)
            await self.traffic.start()
            if self._ledger is not None:
                stack.push_async_callback(self._ledger.close)
                await self._ledger.start()
            stack.push_async_callback(self.pipeline.close)
            self.pages.warm()
            self._opened = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop everything."""
        await self._opened.aclose()


def create(settings: Settings | None = None) -> ASGIApp:
    """Return the ASGI application with every door; its lifespan starts and stops everything.

    Raises:
        CardError: the cards or routes are wrong; it lists every problem.
    """
    settings = settings or Settings()
    files = FilesService(settings)
    usage = UsageBook(files.database)
    ledger = Ledger(files.database, settings.ledger_hours * HOUR)
    workshop = Workshop(settings, files.files, usage.record, ledger, files.room)
    files.files.on_delete += [workshop.pipeline.file_gone, ledger.forget_file]
    files.sweeps["ledger_pages"] = ledger.sweep

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if settings.traces:
                traces.start(own_version())
                stack.push_async_callback(asyncio.to_thread, traces.stop)
            stack.push_async_callback(files.close)
            await files.open(migrations.prepare)
            files.attach(app)
            stack.push_async_callback(usage.close)
            await usage.start()
            if settings.role != "files":
                await stack.enter_async_context(workshop)
                deletions = Deletions(files.database, workshop.pipeline)
                stack.push_async_callback(deletions.close)
                await deletions.start()
                load = partial(load_registry, settings)
                reloader = Reloader(settings.routes, load, workshop.traffic)
                stack.push_async_callback(reloader.close)
                await reloader.start()
            yield

    app = FastAPI(
        title="Recto",
        summary="Self-hosted OCR: documents in, markdown out.",
        version=own_version(),
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    # FastAPI's own docs page loads its scripts from a public host; this one carries them.
    patch_fastapi(app, docs_url="/docs")
    web.add_error_handlers(app)
    web.add_error_schema(app)
    _open_doors(app, settings, files, workshop, UsageReader(files.database, usage))
    metrics.built(own_version())
    return web.FrontDoor(app, settings.body_seconds)


def own_version() -> str:
    """Return the installed version, or 0 where the package is not installed."""
    try:
        return version("recto")
    except PackageNotFoundError:
        return "0"


def _open_doors(
    app: FastAPI,
    settings: Settings,
    files: FilesService,
    workshop: Workshop,
    usage: UsageReader,
) -> None:
    reads = settings.role != "files"
    checks: dict[str, Check] = {"database": files.database.check, "blob store": files.blobs.check}
    if reads:
        checks["drawing"] = partial(_drawing_check, workshop)
    services = Services(
        pipeline=workshop.pipeline,
        registry=workshop.registry,
        traffic=workshop.traffic,
        checks=checks,
        model_checks=partial(_model_checks, workshop) if reads else dict,
        routes=partial(_servers_of_routes, workshop.registry) if reads else dict,
        bodies=JsonBodies(settings.max_json_bytes, settings.max_json_bytes * BODIES_AT_ONCE),
        max_answer_bytes=settings.max_answer_bytes,
        answers=_room_for_answers(settings),
        limits=files.limits,
        usage=usage,
        any_keys=files.keys.any,
    )
    # Whatever is served: who runs the process asks how it is.
    for name in dict.fromkeys(("health", *(settings.doors or named.names(DOORS)))):
        door = named.leaf(DOORS, name, Door)()  # type: ignore[type-abstract]
        if reads or not door.reads:
            app.include_router(door.router(services))
    if settings.role != "ocr":
        app.include_router(files_router())


def _room_for_answers(settings: Settings) -> Room:
    refusal = (
        "The organisation has too many bytes of answers on their way; try again (pages that were "
        "read are kept), or send stream: true."
    )
    total, least = settings.max_answers_bytes, settings.max_answer_bytes
    return Room("answers", total, least, refusal=refusal, seconds=10, free=SMALL_BYTES)


def _model_checks(workshop: Workshop) -> dict[ModelServer, Check]:
    servers = workshop.registry.servers()
    return {
        (card.id, place(url) if url else None): partial(_engine_check, workshop, card, url)
        for card in workshop.registry.cards()
        for url in servers[card.id] or (None,)
    }


def _servers_of_routes(registry: Registry) -> dict[str, list[ModelServer]]:
    def servers(one: Servers) -> list[ModelServer]:
        urls = registry.steering.addresses(one.urls)
        return [(one.card, place(url)) for url in urls] or [(one.card, None)]

    return {
        name: [server for one in route.targets if one.weight for server in servers(one)]
        for name, route in registry.routes().items()
    }


async def _drawing_check(workshop: Workshop) -> str | None:
    return workshop.pages.problem()


async def _engine_check(workshop: Workshop, card: Card, url: str | None) -> str | None:
    return await workshop.engines[card.engine].problem(card, url)


def _engine_pool(settings: Settings, entry: str, memory_bytes: int) -> Pool:
    limits = Limits(memory_bytes=memory_bytes, seconds=ENGINE_SECONDS, tasks=ENGINE_TASKS)
    return Pool(entry, settings.count_engine_processes(), limits)


def _render_limits(settings: Settings) -> Limits:
    memory = settings.render_memory_mib * MIB
    return Limits(memory_bytes=memory, seconds=settings.render_seconds, tasks=RENDER_TASKS)


def _bounds(settings: Settings, drawing: int) -> Bounds:
    return Bounds(
        requests=settings.max_requests,
        org_requests=settings.org_requests,
        pages=settings.max_queued_pages,
        org_pages=settings.org_queued_pages,
        ahead=AHEAD * drawing,
    )


def _outbound_limits(settings: Settings) -> OutboundLimits:
    return OutboundLimits(
        max_bytes=settings.max_file_bytes,
        seconds=settings.fetch_seconds,
        allowed_hosts=settings.fetch_allow,
    )
