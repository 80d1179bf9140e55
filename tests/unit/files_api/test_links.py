"""Signed links, their keys and their secret."""

from __future__ import annotations

import base64
import hmac
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from files_api.kit import disk
from files_api.kit.errors import LinkForbidden
from files_api.links import MAX_HOURS, Links, ParsedLink, hkdf_sha256, load_or_make_secret

NOW = 1_800_000_000
ORG = "0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"
OTHER_ORG = "0193a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5c"
FILE = "0193ffff-c3d4-7e5f-8a9b-0c1d2e3f4a5b"
OTHER_FILE = "0193ffff-c3d4-7e5f-8a9b-0c1d2e3f4a5c"
SECRET, OLD, OLDER = b"a" * 32, b"b" * 32, b"c" * 32


def link_of(signer: Links, life: int = 3600) -> ParsedLink:
    parsed = signer.parse(signer.sign("http://h", ORG, FILE, NOW + life))
    assert parsed is not None
    return parsed


def test_the_format_is_the_documented_one() -> None:
    link = link_of(Links(SECRET))
    key = hkdf_sha256(SECRET, b"recto ocr-url-v1")
    message = f"ocr-url-v1\nGET\n{ORG}\n{FILE}\n{NOW + 3600}\n{link.kid}"
    wanted = base64.urlsafe_b64encode(hmac.digest(key, message.encode(), "sha256"))
    assert link.sig == wanted.decode().rstrip("=")


def test_hkdf_gives_the_values_of_rfc_5869() -> None:
    """Appendix A, test cases 1 and 3."""
    first = hkdf_sha256(
        b"\x0b" * 22,
        bytes.fromhex("f0f1f2f3f4f5f6f7f8f9"),
        salt=bytes.fromhex("000102030405060708090a0b0c"),
        length=42,
    )
    assert first.hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )
    third = hkdf_sha256(b"\x0b" * 22, b"", length=42)
    assert third.hex() == (
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    )


def texts_near(text: str) -> list[str]:
    """Return texts that differ from the given one in ways that careless code overlooks."""
    near = [text[:place] + "A" + text[place + 1 :] for place in range(len(text))]
    near += [text[:place] + text[place + 1 :] for place in range(0, len(text), 2)]
    near += [text + tail for tail in ("=", "==", "A", " ", "\n", "\0", "%00", "/", "\u0131")]
    near += [head + text for head in (" ", "0", "+", "-", "\n", "A", "\ufeff")]
    near += ["", text.upper(), text.swapcase(), text[::-1], text * 2, "None", "*", "\ud800"]
    return [other for other in near if other != text]


def last_letters(sig: str) -> list[str]:
    """Return all texts that decode to the same bytes: 256 bits leave 2 spare in base64."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return [sig[:-1] + letter for letter in alphabet if letter != sig[-1]]


def tampered() -> list[ParsedLink]:
    """Return links that were each changed somewhere after they were signed."""
    good = link_of(Links(SECRET))
    parts = asdict(good)
    variants = [
        ParsedLink(**{**parts, name: text})
        for name, value in parts.items()
        for text in texts_near(value)
    ]
    variants += [ParsedLink(**{**parts, "sig": sig}) for sig in last_letters(good.sig)]
    numbers = (NOW + 3601, NOW + 3599, 0, -1, 2**63, NOW + MAX_HOURS * 3600)
    variants += [ParsedLink(**{**parts, "exp": str(number)}) for number in numbers]
    forms = (
        f"{NOW + 3600}.0",
        f"0{NOW + 3600}",
        hex(NOW + 3600),
        "1_800_003_600",
        "1.8e9",
        "\uff11\uff12",
    )
    variants += [ParsedLink(**{**parts, "exp": form}) for form in forms]
    variants += [
        ParsedLink(**{**parts, "org": OTHER_ORG}),
        ParsedLink(**{**parts, "file_id": OTHER_FILE}),
        ParsedLink(**{**parts, "org": FILE, "file_id": ORG}),
        ParsedLink(**{**parts, "org": f"{ORG}\n{FILE}", "file_id": ""}),
        link_of(Links(OLDER)),
        ParsedLink(**{**asdict(link_of(Links(OLDER))), "kid": good.kid}),
    ]
    return variants


def test_tampered_links_are_forbidden() -> None:
    """R11: 0 of at least 400 variants are accepted."""
    verifier = Links(SECRET, OLD)
    verifier.verify(link_of(Links(SECRET)), NOW)
    variants = tampered()
    assert len(variants) >= 400
    accepted = []
    for link in variants:
        try:
            verifier.verify(link, NOW)
        except LinkForbidden:
            continue
        accepted.append(link)
    assert accepted == []


def test_the_previous_key_verifies_and_a_retired_one_does_not() -> None:
    old = link_of(Links(OLD))
    Links(SECRET, OLD).verify(old, NOW)
    assert link_of(Links(SECRET, OLD)).kid == link_of(Links(SECRET)).kid
    with pytest.raises(LinkForbidden):
        Links(SECRET).verify(old, NOW)
    assert Links(SECRET).parse(Links(OLD).sign("http://h", ORG, FILE, NOW + 1)) is None


@pytest.mark.parametrize("now", [NOW + 3600, NOW + 3601, NOW + 10**9, NOW - MAX_HOURS * 3600])
def test_too_late_and_too_early(now: int) -> None:
    link = link_of(Links(SECRET))
    with pytest.raises(LinkForbidden):
        Links(SECRET).verify(link, now)


def test_the_longest_life() -> None:
    signer = Links(SECRET)
    signer.verify(link_of(signer, MAX_HOURS * 3600), NOW)
    with pytest.raises(LinkForbidden):
        signer.verify(link_of(signer, MAX_HOURS * 3600 + 1), NOW)


def test_any_host_is_ours_and_other_urls_are_not() -> None:
    signer = Links(SECRET)
    url = signer.sign("https://public.example/base/", ORG, FILE, NOW + 60)
    path = url.removeprefix("https://public.example/base")
    for same in (url, f"http://10.0.0.1:8000{path}", path, url.replace("&", "&", 1)):
        parsed = signer.parse(same)
        assert parsed is not None
        signer.verify(parsed, NOW)
    others = [
        f"{url}&x=1",
        f"{url}&",
        url.replace("org=", "ORG="),
        url.replace("/content", "/contents"),
        url.replace("/content", "/content/"),
        url.replace("/v1/files", "/v2/files"),
        url.replace(FILE, "0" * 36),
        url.replace(FILE, FILE.upper()),
        url.replace("kid=", "kid=0"),
        url.replace("&sig=", "&org="),
        url.replace("/v1", "/\tv1"),
        f"{url}\n",
        f" {url}",
        url.split("?")[0],
        "https://example.org/document.pdf",
        "https://[/v1",
        "data:application/pdf;base64,AAAA",
        "",
    ]
    assert [other for other in others if signer.parse(other) is not None] == []


def test_the_secret_is_made_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = set(threads.map(load_or_make_secret, [tmp_path] * 32))
    assert len(made) == 1
    assert len(made.pop()) == 32
    assert [path.name for path in tmp_path.iterdir()] == ["secret.key"]
    assert stat.S_IMODE((tmp_path / "secret.key").stat().st_mode) == 0o600


def test_a_damaged_secret_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.key").write_bytes(b"short")
    with pytest.raises(ValueError, match="32 bytes"):
        load_or_make_secret(tmp_path)


def test_a_secret_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "full")

    monkeypatch.setattr(disk.os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        load_or_make_secret(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "at_home"),
    [
        ("https://ocr.example.com/recto/v1/files/x/content?kid=other", True),
        ("HTTPS://OCR.example.com:443/recto/v1/files/", True),
        ("https://ocr.example.com/recto/manual.pdf", False),
        ("https://ocr.example.com/v1/files/x/content", False),
        ("http://ocr.example.com/recto/v1/files/x/content", False),
        ("https://ocr.example.com:8443/recto/v1/files/x/content", False),
        ("https://other.example.com/recto/v1/files/x/content", False),
        ("https://ocr.example.com:bad/recto/v1/files/x/content", False),
    ],
)
def test_what_is_at_our_public_address(url: str, at_home: bool) -> None:
    """R11: a link that was altered beyond recognition is not fetched from ourselves."""
    assert Links(SECRET, public_url="https://ocr.example.com/recto").leads_home(url) is at_home
    assert Links(SECRET).leads_home(url) is False
