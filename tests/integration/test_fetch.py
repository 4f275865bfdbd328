"""URLs as contexts: what is fetched, and everything that is not, before anything connects to it."""

from __future__ import annotations

import gzip
import shutil
import socket
import ssl
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from web import Silent, Web, raw, redirect, text

from fleet_rlm_jupyter.domain.errors import BadPath, BadUrl
from fleet_rlm_jupyter.engine.contexts import read_context
from fleet_rlm_jupyter.engine.fetch import Fetcher, addresses
from fleet_rlm_jupyter.settings import ContextSettings

PUBLIC = "93.184.216.34"
OURS = ContextSettings(allow_private_urls=True)


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as made:
        yield made


class Internet:
    """`*.test` is at a public address, where `web` answers. `dialed` holds whatever else was connected to."""

    def __init__(self, web: Web) -> None:
        self._web = web
        self.dialed: list[str] = []
        self.answers: dict[str, list[list[str]]] = {}

    def resolve(self, host: str, port: int) -> list[str]:
        if prepared := self.answers.get(host):
            return prepared.pop(0)
        return [PUBLIC] if host.endswith((".test", ".test.")) else addresses(host, port)

    def dial(self, address: tuple[str, int], seconds: float) -> socket.socket:
        if address[0] != PUBLIC:
            self.dialed.append(address[0])
        return socket.create_connection(self._web.address, seconds)

    def fetcher(self, **more) -> Fetcher:
        return Fetcher(resolve=self.resolve, dial=self.dial, **more)


@pytest.fixture
def internet(web) -> Internet:
    return Internet(web)


SCHEMES = [
    *("file:///etc/passwd", "ftp://public.test/", "gopher://public.test:6379/_x", "dict://public.test:11211/stat"),
    *("ldap://public.test/", "data://text/plain,x", "jar://http://public.test!/x", "ws://public.test/"),
]
LOOPBACK_AND_METADATA = [
    *("127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "0", "0.0.0.0"),
    *("localhost", "LocalHost", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
    *("[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "１２７.０.０.１", "①②⑦.⓪.⓪.①", "127。0。0。1"),
    *("169.254.169.254", "2852039166", "0xA9FEA9FE", "[fd00:ec2::254]", "[::ffff:a9fe:a9fe]", "100.100.100.200"),
    *("168.63.129.16", "10.0.0.1", "192.168.0.1", "172.31.255.255"),
]
WITH_A_USER = [
    "http://me@127.0.0.1/",
    "http://public.test@127.0.0.1/",
    "http://127.0.0.1@public.test/",
    "http://@a.test/",
]
PORTS = [f"http://public.test:{port}/" for port in (0, 22, 25, 6379, 65536, -1, "http")]
MALFORMED = [
    *("http://", "http:///path", "http://public.test\\@127.0.0.1/", "http://public.test\\.x/", "http://pub lic.test/"),
    *("http://[::1", "http://public.test/\r\nHost: x", "http://public.test/\0"),
    *("http://public。test:80:80/", "http://public.test:80@127.0.0.1/", "http://a\tb.test/"),
]
NEVER = [
    *SCHEMES,
    *(f"http://{host}:{{port}}/" for host in LOOPBACK_AND_METADATA),
    *WITH_A_USER,
    *PORTS,
    *MALFORMED,
]


@pytest.mark.parametrize("url", NEVER)
def test_nothing_connects_for_a_url_that_may_not_be_fetched(web, internet, url):
    with Silent() as here, Silent("::1") as also_here:
        for port in (here.port, also_here.port):
            with pytest.raises(BadUrl) as caught:
                internet.fetcher(max_seconds=5).fetch(url.replace("{port}", str(port)))
            assert caught.value.hint
            with pytest.raises(BadUrl):
                Fetcher(resolve=internet.resolve, max_seconds=5).fetch(url.replace("{port}", str(port)))
        assert (here.connects, also_here.connects) == (0, 0)
    assert internet.dialed == []
    assert web.asked == []


def test_there_are_at_least_sixty_of_them():
    assert len(set(NEVER)) >= 60


CHAINS = {
    "loopback": ["http://127.0.0.1:{port}/"],
    "metadata": ["http://169.254.169.254/latest/meta-data/"],
    "by two hops": ["http://other.test/1", "http://[::1]:{port}/"],
    "by four hops": ["/1", "http://b.test/2", "//c.test/3", "http://2130706433:{port}/"],
    "without a scheme": ["//localhost:{port}/"],
    "another scheme": ["file:///etc/passwd"],
    "a user": ["http://public.test@127.0.0.1:{port}/"],
    "a port": ["http://public.test:22/"],
    "a database": ["http://public.test:6379/"],
    "in circles": ["/1", "/0", "/1", "/0", "/1", "/0", "/1"],
    "six hops": ["/1", "/2", "/3", "/4", "/5", "/6"],
    "a line break": ["http://127.0.0.1:{port}/\\x"],
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_a_redirect_is_looked_at_like_the_first_url(web, internet, chain):
    with Silent() as here:
        for number, to in enumerate(chain):
            web.routes[f"/{number}"] = redirect(to.replace("{port}", str(here.port)), 301 + number % 3)
        with pytest.raises(BadUrl):
            internet.fetcher().fetch("http://public.test/0")
        assert here.connects == 0
    assert internet.dialed == []
    assert 1 <= len(web.asked) <= 6


def test_five_redirects_are_followed(web, internet):
    for number in range(5):
        web.routes[f"/{number}"] = redirect(f"http://h{number + 1}.test/{number + 1}", 303 + (number % 2) * 4)
    web.routes["/5"] = text("there")
    page = internet.fetcher().fetch("http://h0.test/0")
    assert (page.url, page.body) == ("http://h5.test/5", b"there")
    assert web.asked == [(f"h{number}.test", f"/{number}") for number in range(6)]


def test_a_resolver_that_changes_its_mind_is_asked_once_for_each_hop(web, internet):
    internet.answers["rebinding.test"] = [[PUBLIC], ["127.0.0.1"]]
    web.routes["/"] = text("harmless")
    assert internet.fetcher().fetch("http://rebinding.test/").body == b"harmless"
    assert internet.answers["rebinding.test"] == [["127.0.0.1"]]
    assert internet.dialed == []


def test_a_name_that_leads_elsewhere_after_a_redirect_to_itself_is_refused(web, internet):
    internet.answers["rebinding.test"] = [[PUBLIC], ["127.0.0.1"]]
    web.routes["/"] = redirect("http://rebinding.test/inside")
    with pytest.raises(BadUrl, match=r"not on the public Internet: 127\.0\.0\.1"):
        internet.fetcher().fetch("http://rebinding.test/")
    assert internet.dialed == []


def test_one_address_that_is_not_public_spoils_the_name(internet):
    internet.answers["mixed.test"] = [[PUBLIC, "10.0.0.1"]]
    with pytest.raises(BadUrl, match="not on the public Internet"):
        internet.fetcher().fetch("http://mixed.test/")


def test_the_next_address_is_tried_where_one_does_not_answer(web, internet):
    def dial(address: tuple[str, int], seconds: float) -> socket.socket:
        if address[0] == "1.1.1.1":
            raise ConnectionRefusedError(111, "refused")
        return internet.dial(address, seconds)

    internet.answers["two.test"] = [["1.1.1.1", PUBLIC]]
    web.routes["/"] = text("there")
    assert Fetcher(resolve=internet.resolve, dial=dial).fetch("http://two.test/").body == b"there"


def test_international_names_are_sent_as_the_wire_wants_them(web, internet):
    web.routes["/stra%C3%9Fe?q=%C3%A4&r=1"] = web.routes["/stra%C3%9Fe"] = text("da")
    assert internet.fetcher().fetch("http://bücher.test:8080/straße?q=ä&r=1#part").body == b"da"
    assert web.asked == [("xn--bcher-kva.test:8080", "/stra%C3%9Fe?q=%C3%A4&r=1")]


def test_a_body_larger_than_fifty_megabytes_is_refused_said_or_unsaid(web):
    megabyte = b"x" * 1_000_000

    def without_end(request) -> None:
        request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
        for _ in range(51):
            request.wfile.write(megabyte)

    web.routes["/unsaid"] = without_end
    web.routes["/said"] = text("x", Content_Length="50000001")
    for path in web.routes:
        with pytest.raises(BadUrl, match="larger than 50 MB"):
            Fetcher(allow_private=True).fetch(web.url + path)


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_a_packed_bomb_is_stopped_by_what_it_unpacks_to(web, packing):
    pack = gzip.compress if packing == "gzip" else zlib.compress
    bomb = pack(b"\0" * 40_000_000)
    assert len(bomb) < 100_000
    web.routes["/"] = text(bomb, Content_Encoding=packing)
    with pytest.raises(BadUrl, match="larger than 2 MB"):
        Fetcher(allow_private=True, max_bytes=2_000_000).fetch(web.url)


def test_packed_text_is_unpacked_member_by_member(web):
    web.routes["/"] = text(gzip.compress(b"one\n") + gzip.compress(b"two\n"), Content_Encoding="gzip")
    assert Fetcher(allow_private=True).fetch(web.url).body == b"one\ntwo\n"


def test_whatever_is_slow_ends_with_the_time_that_it_has(web):
    start = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
    web.routes["/status"] = web.drip(b"", b"H")
    web.routes["/headers"] = web.drip(start, b"X-A: b\r\n")
    web.routes["/body"] = web.drip(start + b"Content-Length: 10000\r\n\r\n", b"x")
    web.routes["/open"] = web.drip(start + b"\r\n", b"x")
    web.routes["/chunks"] = web.drip(start + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n")
    web.routes["/hops"] = web.drip(b"HTTP/1.1 302 Found\r\nLocation: /body\r\n", b"X-A: b\r\n")
    begun = time.monotonic()
    for path in web.routes:
        with pytest.raises(BadUrl, match=r"took more than 0\.3 seconds"):
            Fetcher(allow_private=True, max_seconds=0.3).fetch(web.url + path)
    with Silent() as silent, pytest.raises(BadUrl, match=r"took more than 0\.3 seconds"):
        Fetcher(allow_private=True, max_seconds=0.3).fetch(f"https://127.0.0.1:{silent.port}/")
    assert time.monotonic() - begun < 0.3 * 8 + 3


def test_a_resolver_that_does_not_answer_is_left(web):
    def resolve(host: str, port: int) -> list[str]:
        web.ended.wait(30)
        return []

    with pytest.raises(BadUrl, match="took more than"):
        Fetcher(resolve=resolve, max_seconds=0.2).fetch("http://public.test/")


BROKEN = {
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\nabc": "breaks off",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab": "breaks off",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n": "breaks off",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nno gzip": "cannot be read",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(b"abc" * 99, mtime=0)[:-9]: "breaks off",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\n\r\nabc": "packed as br",
    b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\nabc": "no HTTP",
    b"SSH-2.0-OpenSSH_9.6\r\n": "no HTTP",
    b"": "cannot be read",
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n": "404 Not Found",
    b"HTTP/1.1 204 No Content\r\n\r\n": "204",
    b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n": "302",
}


@pytest.mark.parametrize(("answer", "said"), BROKEN.items())
def test_a_broken_answer_is_never_half_a_text(web, answer, said):
    web.routes["/"] = raw(answer)
    with pytest.raises(BadUrl, match=said):
        Fetcher(allow_private=True).fetch(web.url)


@pytest.mark.parametrize("kind", ["image/png", "application/pdf", "application/zip", "video/mp4", "font/woff2"])
def test_what_says_it_is_no_text_is_refused(web, kind):
    web.routes["/"] = text("abc", kind)
    with pytest.raises(BadUrl, match=kind):
        Fetcher(allow_private=True).fetch(web.url)


def test_a_host_that_is_not_there_says_so():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(BadUrl, match="refused"):
        Fetcher(allow_private=True).fetch(f"http://127.0.0.1:{port}/")


def test_the_certificate_is_checked_for_the_name_and_not_for_the_address(tmp_path, internet):
    if not shutil.which("openssl"):
        pytest.skip("needs the command openssl, to make a certificate")
    name = ["-subj", "/CN=secure.test", "-addext", "subjectAltName=DNS:secure.test"]
    files = ["-keyout", tmp_path / "key", "-out", tmp_path / "certificate"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *name, *files]
    subprocess.run(command, check=True, capture_output=True)
    of_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    of_server.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
    ours = ssl.create_default_context(cafile=str(tmp_path / "certificate"))
    with Web(of_server) as web:
        internet = Internet(web)
        web.routes["/"] = text("safe")
        web.routes["/down"] = redirect("http://secure.test/")
        assert internet.fetcher(tls=ours).fetch("https://secure.test/").body == b"safe"
        assert web.asked == [("secure.test", "/")]
        with pytest.raises(BadUrl, match=r"other\.test"):
            internet.fetcher(tls=ours).fetch("https://other.test/")
        with pytest.raises(BadUrl, match="certificate"):
            internet.fetcher().fetch("https://secure.test/")
        with pytest.raises(BadUrl, match="from https to http"):
            internet.fetcher(tls=ours).fetch("https://secure.test/down")


def test_a_url_is_a_context_and_a_private_one_only_when_allowed(web):
    web.routes["/log"] = text("Grüße\r\n".encode("latin-1"), "text/plain; charset=latin-1")
    made = read_context([web.url + "/log?sig=secret"], OURS)
    assert made.value == "Grüße\n"
    assert str(made.manifest) == "1 file, 0.0 MB"
    with pytest.raises(BadUrl, match=r"127\.0\.0\.1 is not on the public Internet") as caught:
        read_context([web.url + "/log?sig=secret"], ContextSettings())
    assert "context.allow_private_urls" in caught.value.hint
    assert len(web.asked) == 1


def test_urls_files_and_folders_are_one_context(web, tmp_path: Path):
    web.routes["/a"] = text("A")
    web.routes["/page"] = text("<p>B", "text/html")
    (tmp_path / "c.txt").write_text("C")
    made = read_context([f"{web.url}/a?n=1", f"{web.url}/a?n=2", f"{web.url}/page", tmp_path], OURS)
    folder = tmp_path.name
    assert made.value == {
        f"{web.url}/a": "A",
        f"{web.url}/a (2)": "A",
        f"{web.url}/page": "<p>B",
        f"{folder}/c.txt": "C",
    }
    assert "page is HTML and read as it is, with its tags" in str(made.manifest)


def test_a_notebook_behind_a_url_is_read_as_cells(web):
    web.routes["/n.ipynb"] = text('{"nbformat": 4, "cells": [{"cell_type": "code", "source": "1"}]}', None)
    made = read_context([f"{web.url}/n.ipynb?raw=1"], OURS)
    assert made.value == "# %% [code] cell 1\n1\n"
    assert made.manifest.notebooks == 1


def test_a_binary_behind_a_url_is_refused_and_so_is_what_the_setting_has_no_room_for(web):
    web.routes["/"] = text(b"\x7fELF\0\0", "application/octet-stream")
    web.routes["/big"] = text("x" * 1_000_001)
    with pytest.raises(BadPath, match="binary"):
        read_context([web.url], OURS)
    with pytest.raises(BadPath, match="larger than 1 MB"):
        read_context([f"{web.url}/big"], ContextSettings(allow_private_urls=True, max_mb=1))
