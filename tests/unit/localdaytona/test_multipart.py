"""Uploads are read rightly however the network cuts them."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet_rlm_jupyter.localdaytona.multipart import MultipartStream
from fleet_rlm_jupyter.localdaytona.wire import ApiError

TYPE = "multipart/form-data; boundary=--x--y"


class Network:
    """A body that arrives in the pieces given."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    async def readany(self) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    async def read(self) -> bytes:
        return b""


def encode(parts: list[tuple[str, bytes]]) -> bytes:
    body = b""
    for name, data in parts:
        head = f'----x--y\r\nContent-Disposition: form-data; name="{name}"; filename="{name}.bin"\r\n\r\n'
        body += head.encode() + data + b"\r\n"
    return body + b"----x--y--\r\n"


def cut(body: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({place % (len(body) + 1) for place in cuts})
    pieces = [body[low:high] for low, high in zip([0, *places], [*places, len(body)], strict=True)]
    return [piece for piece in pieces if piece]


def decode(pieces: list[bytes], kind: str = TYPE) -> list[tuple[str, bytes]]:
    async def read() -> list[tuple[str, bytes]]:
        stream = MultipartStream(kind, Network(pieces))  # pyright: ignore[reportArgumentType]
        return [(part.name, b"".join([piece async for piece in stream.data()])) async for part in stream.parts()]

    return asyncio.run(read())


tricky = st.one_of(
    st.binary(max_size=80), st.sampled_from([b"", b"\r\n", b"\r\n--", b"\r\n----x--", b"--x--y", b"\r\n\r\n"])
)


@given(
    st.lists(st.tuples(st.sampled_from(["a", "files[0].file"]), tricky), max_size=4), st.lists(st.integers(0, 10**6))
)
def test_parts_come_out_as_they_went_in(parts: list[tuple[str, bytes]], cuts: list[int]) -> None:
    assert decode(cut(encode(parts), cuts)) == parts


@given(st.integers(0, 10**6))
def test_an_upload_that_ends_early_is_an_error(length: int) -> None:
    body = encode([("a", b"data" * 10)])
    with pytest.raises(ApiError, match="ended early"):
        decode([body[: length % (len(body) - 4)]])


@pytest.mark.parametrize("kind", ["", "application/json", "multipart/form-data", "multipart/mixed; boundary=x"])
def test_another_kind_of_body_is_refused(kind: str) -> None:
    with pytest.raises(ApiError) as caught:
        decode([b"x"], kind)
    assert caught.value.status == 400


def test_headers_without_end_are_refused() -> None:
    with pytest.raises(ApiError, match="too long"):
        decode([b"----x--y\r\n"] + [b"a" * 1000] * 100)
