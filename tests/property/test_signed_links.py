"""R11: whatever is changed in a signed link, it opens nothing; the real service judges.

The service has API keys, so that a link is all that its bearer has.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import json
import logging
import re
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from pydantic import SecretStr
from starlette.types import ASGIApp

from files_api.accounts import ALL_SCOPES, Organisations
from files_api.keys import Keys
from files_api.kit.db import Database
from files_api.links import MAX_HOURS, Links, hkdf_sha256
from ocr_api import app, migrations
from ocr_api.settings import Settings
from tests import samples
from tests.conftest import running
from tests.e2e.conftest import started
from tests.fuzz.wire import Answer, ask, check_error

SECRET = "0123456789abcdef-the-current-one"
OLD = "0123456789abcdef-the-one-before-"
RETIRED = "0123456789abcdef-the-oldest-one-"
PDF = samples.text_pdf(["What the link leads to."])
TOKEN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@dataclass(frozen=True)
class Link:
    """A signed link in its parts, in the order of the query."""

    file: str
    org: str
    exp: str
    kid: str
    sig: str

    def query(self) -> str:
        return f"org={self.org}&exp={self.exp}&kid={self.kid}&sig={self.sig}"

    def target(self) -> str:
        return f"/v1/files/{self.file}/content?{self.query()}"


@dataclass
class House:
    """The service, two organisations with a key and files each, and a good link."""

    service: ASGIApp
    key: str
    other_key: str
    file: str = ""
    second: str = ""
    strangers: str = ""
    """The other organisation's file."""
    good: Link = field(init=False)
    other_org: str = ""

    async def ask(self, target: str, method: str = "GET", key: str | None = None) -> Answer:
        headers = [(b"authorization", f"Bearer {key}".encode())] if key else []
        return await ask(self.service, method, target.encode("utf-8", "surrogatepass"), headers)

    async def upload(self, key: str) -> str:
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.pdf"\r\n\r\n'
        headers = [
            (b"authorization", f"Bearer {key}".encode()),
            (b"content-type", b"multipart/form-data; boundary=b"),
        ]
        body = head + PDF + b"\r\n--b--\r\n"
        answer = await ask(self.service, "POST", b"/v1/files", headers, [body])
        assert answer.status == 200, answer.body
        return str(answer.json()["id"])

    async def signed(self, file_id: str, hours: int = 24) -> Link:
        answer = await self.ask(f"/v1/files/{file_id}/url?expiry={hours}", key=self.key)
        return link_in(answer.json()["url"])

    async def read(self, url: str) -> httpx.Response:
        """Give the URL as a document."""
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(self.service), base_url="http://127.0.0.1"
        ) as client:
            document = {"type": "document_url", "document_url": url}
            return await client.post(
                "/v1/ocr",
                content=json.dumps({"model": "echo", "document": document}),
                headers={"Authorization": f"Bearer {self.key}"},
            )


def link_in(url: str) -> Link:
    match = re.fullmatch(
        r"http://127\.0\.0\.1:8000/v1/files/(.{36})/content\?org=(.{36})&exp=(\d+)&kid=(\w+)&sig=(.+)",
        url,
    )
    assert match
    return Link(*match.groups())


@pytest.fixture
def settings(settings: Settings) -> Settings:
    facts = {
        "secret_key": SecretStr(SECRET),
        "previous_secret_key": SecretStr(OLD),
        "fetch_allow": (),
    }
    return settings.model_copy(update=facts)


@pytest.fixture
async def house(settings: Settings) -> AsyncIterator[House]:
    settings.data_dir.mkdir()
    database = Database(settings.effective_database_url())
    await migrations.upgrade(database)
    keys, texts, owners = Keys(database, SECRET.encode()), [], []
    for name in ("own", "other"):
        owner = await Organisations(database).create(name)
        texts.append((await keys.make(owner, scopes=ALL_SCOPES))[1])
        owners.append(owner.id)
    await database.close()
    service = app.create(settings)
    async with running(service):
        house = House(service, *texts, other_org=owners[1])
        house.file, house.second = [await house.upload(house.key) for _ in range(2)]
        house.strangers = await house.upload(house.other_key)
        house.good = await house.signed(house.file)
        assert house.good.org == owners[0]
        yield house


# --- what is changed ------------------------------------------------------------------------------


def signature(
    link: Link, key: bytes, form: str = "ocr-url-v1\nGET\n{org}\n{file}\n{exp}\n{kid}"
) -> str:
    message = form.format(org=link.org, file=link.file, exp=link.exp, kid=link.kid)
    digest = hmac.digest(key, message.encode(), "sha256")
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def flipped(text: str) -> Iterator[str]:
    """Yield the text with one bit changed, for every bit of every character."""
    for place, bit in itertools.product(range(len(text)), range(7)):
        letter = chr(ord(text[place]) ^ 1 << bit)
        # A separator makes another query of it; those have a table of their own.
        if letter not in "&=?#%/":
            yield text[:place] + letter + text[place + 1 :]


def near(text: str) -> Iterator[str]:
    """Yield texts that careless code takes for the same."""
    yield from ("", text[:-1], text[1:], text * 2, text.upper(), text.swapcase(), text[::-1])
    yield from (f"{text}=", f"{text}==", f"{text}.", f"{text}A", f"{text}%00", f"{text}%20")
    yield from (f"+{text}", f"%20{text}", f"0{text}", f"-{text}", f"{text}%0A", f"{text}/", "*")
    yield from ("null", "None", "undefined", "0", "%", "%zz", f"{text},{text}", f"[{text}]")
    yield from (f"%{ord(text[0]):02X}{text[1:]}", f"{text[:-1]}%{ord(text[-1]):02x}")
    yield from (f"\u200b{text}", f"{text}\ufeff", "\ud800", "'or'1'--", "../../etc/passwd")


def numbers_like(exp: str, now: int) -> list[str]:
    number = int(exp)
    return [
        *(str(number + by) for by in (-86400, -1, 1, 60, 86400, 10**6)),
        *(str(now - 1), "0", "1", str(2**31 - 1), str(2**63), "9" * 15, "9" * 400),
        *(f"{number}.0", f"{number}e0", hex(number), oct(number), f"{number:_}", f"{number:,}"),
        *(f"+{number}", f"-{number}", f"0{number}", f"00{number}", f"%20{number}", f"{number}%20"),
        *(f"%2B{number}", f"\t{number}", f"{number}\n", f"{number}\x00", f"{number}L"),
        "".join(chr(0xFF10 + int(digit)) for digit in exp),  # full-width
        "".join(chr(0x660 + int(digit)) for digit in exp),  # Arabic-Indic
        "".join(chr(0x1D7CE + int(digit)) for digit in exp),  # mathematical bold
        exp[:-1] + "²",
        *("NaN", "Infinity", "true", str(number * 1000)),
    ]


def of_the_parts(house: House) -> Iterator[Link]:
    """Yield links in which the text of one part was changed."""
    good, now = house.good, int(time.time())
    yield from (replace(good, sig=text) for text in flipped(good.sig))
    yield from (replace(good, exp=text) for text in flipped(good.exp))
    yield from (replace(good, kid=text) for text in flipped(good.kid))
    yield from (replace(good, org=text) for text in itertools.islice(flipped(good.org), 0, None, 5))
    for text in itertools.islice(flipped(good.file), 0, None, 5):
        yield replace(good, file=text)
    for part in ("org", "exp", "kid", "sig"):
        yield from (replace(good, **{part: text}) for text in near(getattr(good, part)))
    yield from (replace(good, exp=text) for text in numbers_like(good.exp, now))
    # 256 bits leave two to spare in the last character: four texts decode to the same bytes.
    yield from (replace(good, sig=good.sig[:-1] + chr(last)) for last in TOKEN)
    raw = hmac.digest(_key(SECRET), good.target().encode(), "sha256")
    yield from (replace(good, sig=text) for text in (raw.hex(), b64encode(raw).decode()))
    yield replace(good, sig=good.sig.replace("-", "+").replace("_", "/"))


def of_the_matrix(house: House) -> Iterator[Link]:
    """Yield organisation x file x expiry x key id x who signed what, but for what is good."""
    good, now = house.good, int(time.time())
    orgs = (good.org, house.other_org, str(UUID(int=7)))
    files = (good.file, house.second, house.strangers, str(UUID(int=8)))
    times = (good.exp, str(now - 1), str(now + (MAX_HOURS + 1) * 3600))
    ids = {secret: _kid(secret) for secret in (SECRET, OLD, RETIRED)}
    for org, file, exp in itertools.product(orgs, files, times):
        owned = (org == good.org) == (file in {good.file, house.second}) and org != orgs[2]
        owned = owned and file != files[3]
        for named, signer in itertools.product(ids, repeat=2):
            made = Link(file, org, exp, ids[named], "")
            made = replace(made, sig=signature(made, _key(signer)))
            # What the current or the previous key signed for the owner, in time, is a good link.
            if not (named == signer != RETIRED and owned and exp == good.exp):
                yield made
            if (org, file, exp, named) != (good.org, good.file, good.exp, SECRET):
                yield replace(made, sig=good.sig)


def of_other_forms(house: House) -> Iterator[Link]:
    """Yield signatures of the right key over something else, or of another key over the link."""
    good, key = house.good, _key(SECRET)
    for method in ("HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "get", "", "GET "):
        form = f"ocr-url-v1\n{method}\n{{org}}\n{{file}}\n{{exp}}\n{{kid}}"
        yield replace(good, sig=signature(good, key, form))
    for form in (
        *("ocr-url-v2\nGET\n{org}\n{file}\n{exp}\n{kid}", "GET\n{org}\n{file}\n{exp}\n{kid}"),
        *("ocr-url-v1\nGET\n{file}\n{org}\n{exp}\n{kid}", "ocr-url-v1GET{org}{file}{exp}{kid}"),
        *("ocr-url-v1\nGET\n{org}\n{file}\n{exp}", "ocr-url-v1\nGET\n{org}\n{file}\n{kid}"),
        *("ocr-url-v1\nGET\n{file}\n{exp}\n{kid}", "ocr-url-v1\nGET\n{org}\n{exp}\n{kid}"),
        *("ocr-url-v1\r\nGET\r\n{org}\r\n{file}\r\n{exp}\r\n{kid}", "", "{file}", "{org}{file}"),
        "ocr-url-v1\nGET\n{org}\n{file}\n{exp}\n{kid}\n",
    ):
        yield replace(good, sig=signature(good, key, form))
    purposes = (b"recto api-key-pepper-v1", b"recto ocr-url-v2", b"recto", b"")
    keys = [SECRET.encode(), b"", bytes(32), *(hkdf_sha256(SECRET.encode(), p) for p in purposes)]
    yield from (replace(good, sig=signature(good, other)) for other in keys)
    digest = sha256(good.target().encode()).digest()
    yield replace(good, sig=urlsafe_b64encode(digest).rstrip(b"=").decode())


def of_the_query(good: Link) -> Iterator[str]:
    """Yield targets whose query has other keys, twice, in other writing, or none."""
    parts = good.query().split("&")
    head = f"/v1/files/{good.file}/content"
    for part in parts:  # one is missing, is there twice, is empty, has no value, is escaped
        rest = [other for other in parts if other != part]
        name, _, value = part.partition("=")
        wrong = "0" * len(value)
        for changed in (
            *((), (part, part), (part, f"{name}={wrong}"), (f"{name}={wrong}", part), (name,)),
            *((f"{name}=",), (f"{name}=={value}",), (f"{name.upper()}={value}",)),
            *((f"{name}[]={value}",), (f"%{ord(name[0]):02x}{name[1:]}={value}",)),
            *((f" {name}={value}",), (f"{name}={value};x=1",), (f"#{name}={value}",)),
            *((f"amp;{name}={value}",), (f"{name}%3D{value}",), (f"\u200b{name}={value}",)),
        ):
            yield f"{head}?{'&'.join([*rest, *changed])}"
    whole = good.query()
    for tail in (
        "&x=1",
        "&",
        "&&",
        "&=",
        "&page=1",
        "&download=true",
        "&token=x",
        "?",
        "%00",
        "%23",
    ):
        yield f"{head}?{whole}{tail}"
    for lead in ("x=1&", "&", "?", "%3F", "sig=&", "org=*&", "kid=none&"):
        yield f"{head}?{lead}{whole}"
    yield f"{head}?{whole.replace('&', ';')}"
    yield f"{head}?{whole.replace('&', '%26')}"
    yield f"{head}?{whole.replace('=', '%3D')}"
    yield f"{head}?{whole}&{whole}"
    yield f"{head}?{whole.upper()}"
    yield f"{head}%3F{whole}"
    yield f"{head}#{whole}"


def of_the_path(house: House) -> Iterator[str]:
    """Yield targets where the path tries to be another file's, or another route's."""
    good = house.good
    query, other, own = good.query(), house.strangers, good.file
    for path in (
        *(f"/v1/files/{other}/content", f"/v1/files/{own}/../{other}/content"),
        *(f"/v1/files/{own}%2F..%2F{other}/content", f"/v1/files/{other}%3F/{own}/content"),
        *(f"/v1/files/{own}/content/../../{other}/content", f"/v1/files/{other}%23/content"),
        *(f"/v1/files/{other};{own}/content", f"/v1/files/{own},{other}/content"),
        *(f"/v1/files/{other}%00{own}/content", f"/v1/files/{own}%00/content"),
        *(f"/v1/files/{own.upper()}/content", f"/v1/files/%20{own}/content"),
        *(f"/v1/files/{own}%20/content", f"/v1/files/{own.replace('-', '')}/content"),
        *(f"/v1/files/{{{own}}}/content", f"/v1/files/urn:uuid:{own}/content"),
        *(f"/v1/files/{own}/content/", f"//v1/files/{own}/content", f"/v1//files/{own}/content"),
        *(f"/v1/files//{own}/content", f"/V1/files/{own}/content", f"/v1/files/{own}/CONTENT"),
        *(f"/v1/files/{own}/content%2F", f"/v2/files/{own}/content", f"/files/{own}/content"),
        *(
            f"/v1/files/{own}/content.pdf",
            f"/v1/files/{own}\\content",
            f"/v1/files/{own}/./content",
        ),
    ):
        yield f"{path}?{query}"


def _key(secret: str) -> bytes:
    return hkdf_sha256(secret.encode(), b"recto ocr-url-v1")


def _kid(secret: str) -> str:
    return link_in(Links(secret.encode()).sign("http://127.0.0.1:8000", "o" * 36, "f" * 36, 1)).kid


def tampered(house: House) -> list[str]:
    """Return the targets of all changed links, each once."""
    links = itertools.chain(of_the_parts(house), of_the_matrix(house), of_other_forms(house))
    targets = itertools.chain(
        (link.target() for link in links), of_the_query(house.good), of_the_path(house)
    )
    return [target for target in dict.fromkeys(targets) if target != house.good.target()]


# --- the tests ------------------------------------------------------------------------------------


async def test_r11_no_tampered_link_opens_anything(house: House) -> None:
    targets = tampered(house)
    assert len(targets) >= 1200
    codes = set()
    for target in targets:
        answer = await house.ask(target)
        assert answer.status in {401, 403, 404}, target
        codes.add(check_error(answer))
        assert PDF not in answer.body
    assert codes == {"invalid_api_key", "invalid_signature", "file_not_found", "not_found"}
    good = await house.ask(house.good.target())
    assert (good.status, good.body) == (200, PDF)


async def test_r11_no_tampered_link_is_read_or_fetched_as_a_document(house: House) -> None:
    visits = 0

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal visits
        visits += 1
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        good = house.good.target()
        codes: dict[str, int] = {}
        for target in tampered(house):
            # The path of a proxy may stand before a link's own, and white space around it.
            if target.strip().endswith(good) or "\ud800" in target:
                continue
            found = await house.read(base + target)
            assert found.status_code == 400, target
            code = found.json()["code"]
            codes[code] = codes.get(code, 0) + 1
        assert set(codes) == {"invalid_signed_url", "fetch_refused"}
        assert min(codes.values()) >= 100
        read = await house.read(base + good)
    assert read.status_code == 200
    assert visits == 0


async def test_r11_a_link_in_the_previous_keys_name_holds_and_a_retired_ones_does_not(
    house: House,
) -> None:
    for secret, status in ((SECRET, 200), (OLD, 200), (RETIRED, 403)):
        link = replace(house.good, kid=_kid(secret))
        link = replace(link, sig=signature(link, _key(secret)))
        assert (await house.ask(link.target())).status == status
        assert (await house.read(f"http://h{link.target()}")).status_code == (
            200 if status == 200 else 400
        )


async def test_r11_a_rightly_signed_link_holds_for_a_week_at_most(house: House) -> None:
    """Also against a signer whose clock is wrong."""
    week = MAX_HOURS * 3600
    for seconds, status in {
        **dict.fromkeys((60, 3600, week - 60), 200),
        **dict.fromkeys((-1, -3600, -(10**8), week + 60, week + 3600, 10**9), 403),
    }.items():
        link = replace(house.good, exp=str(int(time.time()) + seconds))
        link = replace(link, sig=signature(link, _key(SECRET)))
        assert (await house.ask(link.target())).status == status, seconds
    # An expiry has one form only, whoever signed another.
    for exp in numbers_like(str(int(time.time()) + 3600), int(time.time()))[13:]:
        link = replace(house.good, exp=exp)
        answer = await house.ask(replace(link, sig=signature(link, _key(SECRET))).target())
        assert (answer.status, check_error(answer)) == (403, "invalid_signature"), exp


async def test_r11_links_are_made_for_one_to_168_hours(house: House) -> None:
    for hours in (1, MAX_HOURS):
        made = await house.signed(house.file, hours)
        assert abs(int(made.exp) - time.time() - hours * 3600) < 60
        assert (await house.ask(made.target())).status == 200
    for hours in (-1, 0, MAX_HOURS + 1, 10**30):
        answer = await house.ask(f"/v1/files/{house.file}/url?expiry={hours}", key=house.key)
        assert answer.status == 422


async def test_r11_a_link_reads_one_files_bytes_and_nothing_else(house: House) -> None:
    good = house.good
    query, head = good.query(), f"/v1/files/{good.file}"
    for method in ("HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get"):
        answer = await house.ask(good.target(), method)
        assert answer.status in {401, 405}, method
        assert PDF not in answer.body
    for method, path in (
        *(("DELETE", head), ("GET", head), ("GET", f"{head}/url"), ("POST", f"{head}/ocr")),
        *(
            ("GET", "/v1/files"),
            ("POST", "/v1/files"),
            ("POST", "/v1/ocr"),
            ("POST", "/v1/uploads"),
        ),
    ):
        answer = await house.ask(f"{path}?{query}", method)
        assert answer.status == 401, (method, path)
        assert check_error(answer) == "invalid_api_key"
    assert (await house.ask(good.target())).body == PDF


async def test_r11_a_key_does_not_mend_a_broken_link(house: House) -> None:
    """Not even the owner's: who shows a link is judged by the link."""
    broken = replace(house.good, sig="A" * 43)
    for key in (house.key, house.other_key):
        assert check_error(await house.ask(broken.target(), key=key)) == "invalid_signature"
    # And a link needs no key, not even a good one.
    assert (await house.ask(house.good.target(), key="ocr_nonsense")).body == PDF


async def test_r11_other_spellings_of_the_same_address_lead_to_the_same_file(house: House) -> None:
    good = house.good
    parts = good.query().split("&")
    for order in itertools.permutations(parts):
        answer = await house.ask(f"/v1/files/{good.file}/content?{'&'.join(order)}")
        assert answer.body == PDF
    for path in (
        f"/v1/v1/files/{good.file}/content",  # of clients whose base URL ends in /v1
        f"/v1/files/%{ord(good.file[0]):02x}{good.file[1:]}/content",  # RFC 3986, 6.2.2.2
    ):
        assert (await house.ask(f"{path}?{good.query()}")).body == PDF
    # What follows a # is the client's own, and any host and prefix will do: the signature is the
    # proof.
    for url in (f"https://elsewhere.example{good.target()}#page=1", f"http://h/p{good.target()}"):
        assert (await house.read(url)).status_code == 200


async def test_r11_a_link_ends_with_its_file(house: House) -> None:
    url = f"http://127.0.0.1:8000{house.good.target()}"
    assert (await house.read(url)).status_code == 200
    assert (await house.ask(f"/v1/files/{house.file}", "DELETE", house.key)).status == 200
    answer = await house.ask(house.good.target())
    assert (answer.status, check_error(answer)) == (404, "file_not_found")
    read = await house.read(url)
    assert (read.status_code, read.json()["code"]) == (400, "invalid_signed_url")


async def test_r11_what_stands_in_a_link_stands_in_no_log(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    names = (
        *("", "uvicorn", "uvicorn.access", "uvicorn.error", "asyncio", "starlette", "fastapi"),
        *("aiohttp", "aiohttp.client", "aiohttp.access", "sqlalchemy", "recto", "files_api"),
        "ocr_api",
    )
    for name in names:
        caplog.set_level(logging.DEBUG, name)
    links = [
        house.good,
        replace(house.good, exp="7777777"),
        replace(house.good, kid="feedfacecafe"),
    ]
    links.append(replace(house.good, sig="S" * 43))
    for link in links:
        await house.ask(link.target())
        await house.ask(f"/v1/files?{link.query()}")
        await house.ask(f"/nothing?{link.query()}")
        response = await house.read(f"http://127.0.0.1:9{link.target()}")
        assert link.sig not in response.text
    formatted = [
        (record.name, f"{record.getMessage()} {record.__dict__}")
        for record in caplog.records
        if not record.name.startswith(("httpx", "httpcore"))  # the test's own client
    ]
    assert any(name == "recto.access" for name, _ in formatted)
    for link in links:
        for secret in (link.sig, link.kid, link.exp):
            assert [name for name, text in formatted if secret in text] == []


def test_r11_a_real_server_logs_no_query(tmp_path: Path) -> None:
    """The command as it runs, with its HTTP server, at the most talkative level."""
    with started(tmp_path, LOG_LEVEL="DEBUG") as server, httpx.Client(base_url=server.base) as http:
        made = http.post("/v1/files", files={"file": ("a.pdf", PDF)}).json()
        url = http.get(f"/v1/files/{made['id']}/url").json()["url"]
        assert http.get(url).content == PDF
        secret = url.rpartition("sig=")[2]
        assert http.get(url.replace("sig=", "sig=x")).status_code == 403
        assert http.get("/v1/models", params={"token": secret}).status_code == 200
        assert http.get("/nothing", params={"sig": secret}).status_code == 404
        for link in (url, url.replace("sig=", "sig=x"), f"http://127.0.0.1:1/?sig={secret}"):
            document = {"type": "document_url", "document_url": link}
            http.post("/v1/ocr", json={"document": document, "model": "none"})
            http.post("/v1/ocr", json={"document": document, "pages": "5"})
    log = (tmp_path / "log.jsonl").read_text()
    assert made["id"] in log  # paths are there, queries are not
    for query in (secret, "exp=", "kid=", "sig=", "token"):
        assert query not in log
