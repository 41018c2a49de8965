"""Sequences of frames for the fuzzer: valid ones, and what can be done to them frame by frame."""

from random import Random

from hpack import Encoder

from tests.authz_requests import Request, by_xds_protos
from tests.fuzz.mutate import CASE_BYTES_MAX, INTEGERS, mutated
from tests.fuzz.tenants import KEYS
from tests.http2_frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER_BYTES,
    PADDED,
    PREFACE,
    PRIORITISED,
    PUSH_PROMISE,
    continuation,
    data,
    encoded,
    frame,
    frames_of,
    goaway,
    grpc_fields,
    grpc_message,
    headers,
    ping,
    priority,
    rst_stream,
    settings,
    window_update,
)

ECHO, LATER, HANG, FAIL = "/t.S/Echo", "/t.S/Later", "/t.S/Hang", "/t.S/Fail"
CHECK, HEALTH = "/envoy.service.auth.v3.Authorization/Check", "/grpc.health.v1.Health/Check"
METHODS = [ECHO, ECHO, LATER, HANG, FAIL, CHECK, HEALTH, "/t.S/Unknown", ""]
CHECK_REQUEST = by_xds_protos(Request(headers={"x-api-key": KEYS["globex"]}))
MESSAGES = [b"", b"x", b"abc" * 100, CHECK_REQUEST, b"\xff\xff", bytes(20_000)]
FIELDS = [
    *(("content-length", "6"), ("content-length", "0"), ("connection", "close"), ("X", "y")),
    *(("grpc-timeout", "5m"), ("grpc-timeout", "99999999H"), ("grpc-timeout", "9" * 300)),
    *(("grpc-timeout", "x"), ("grpc-encoding", "gzip"), ("content-type", "text/plain")),
    *((":status", "200"), (":path", "/"), ("transfer-encoding", "chunked"), ("", "")),
    *(("x", "\0"), ("x", "v" * 3000), ("te", "gzip")),  # codespell:ignore te
]
WORDS = [
    *(PREFACE, settings(), settings(flags=ACK), ping(), goaway(), rst_stream(1), data(1)),
    *(window_update(0, 1), b"\xff\xff\xff", b"\x00\x00\x00\x00\x05hello", b"\x82\x86\x84"),
    *(b"\x3f\xe1\x1f", b"\x20", b"\xbe", encoded([("x", "v")], indexed=True)),
    encoded(grpc_fields(ECHO)),
]


class Sequence:
    """What a client sends: mostly what it may."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._encoder = Encoder() if random.random() < 0.5 else None
        self._stream = 1

    def parts(self) -> list[bytes]:
        random = self._random
        parts = [PREFACE, self._settings()]
        for _ in range(random.choice((1, 1, 2, 4, 8))):
            parts += self._call() if random.random() < 0.6 else [self._control()]
        return parts

    def _settings(self) -> bytes:
        random = self._random
        pairs = random.choice((0, 0, 1, 3))
        chosen = [
            (random.randrange(1, 10), random.choice((*INTEGERS, 0, 1, 65_535)))
            for _ in range(pairs)
        ]
        return settings(*((key, value & 0xFFFFFFFF) for key, value in chosen))

    def _block(self, fields: list[tuple[str, str]]) -> bytes:
        if self._encoder is not None:
            return bytes(self._encoder.encode(fields, huffman=self._random.random() < 0.5))
        return encoded(fields, indexed=self._random.random() < 0.3)

    def _call(self) -> list[bytes]:
        random, stream = self._random, self._stream
        self._stream += 2
        fields = grpc_fields(random.choice(METHODS))
        if random.random() < 0.3:
            fields.insert(random.randrange(len(fields) + 1), random.choice(FIELDS))
        if random.random() < 0.1:
            del fields[random.randrange(len(fields))]
        parts = self._headers(stream, self._block(fields))
        message = grpc_message(random.choice(MESSAGES))
        last = END_STREAM if random.random() < 0.9 else 0
        if random.random() < 0.15:
            parts += [
                data(stream, message[:3], flags=0),
                data(stream, message[3:16_000], flags=last),
            ]
        elif random.random() < 0.15:
            pad = random.choice((0, 1, 255))
            padded = bytes((pad,)) + message[:10_000] + bytes(pad)
            parts.append(data(stream, padded, flags=last | PADDED))
        elif random.random() < 0.15:
            trailers = self._block([("x", "y")])
            parts += [
                data(stream, message[:16_384], flags=0),
                headers(stream, trailers, flags=END_HEADERS | END_STREAM),
            ]
        else:
            pieces = range(0, len(message), 16_384)
            parts += [data(stream, message[at : at + 16_384], flags=0) for at in pieces[:-1]]
            parts.append(data(stream, message[pieces[-1] :], flags=last))
        return parts

    def _headers(self, stream: int, block: bytes) -> list[bytes]:
        random = self._random
        choice = random.randrange(8)
        if choice == 0:
            at = random.randrange(len(block) + 1)
            return [
                headers(stream, block[:at], flags=0),
                continuation(stream, block[at:], flags=END_HEADERS),
            ]
        if choice == 1:
            before = random.randrange(8).to_bytes(4) + b"\x10"
            return [headers(stream, block, flags=END_HEADERS | PRIORITISED, before=before)]
        if choice == 2:
            return [headers(stream, block + bytes(9), flags=END_HEADERS | PADDED, before=b"\x09")]
        return [headers(stream, block)]

    def _control(self) -> bytes:
        random = self._random
        stream = random.choice((0, 1, self._stream, max(1, self._stream - 2)))
        number = random.choice(INTEGERS) & 0xFFFFFFFF
        chosen = random.choice(
            (
                settings(flags=ACK),
                ping(flags=random.choice((0, ACK))),
                window_update(stream, number),
                window_update(stream, random.randrange(1, 1000)),
                rst_stream(stream, random.randrange(16)),
                rst_stream(max(1, self._stream - 2)),
                priority(stream, random.randrange(9)),
                goaway(stream, random.randrange(16), b"bye"),
                frame(PUSH_PROMISE, END_HEADERS, stream, b"\0\0\0\2\x82"),
                self._settings(),
            )
        )
        return bytes(chosen)


def fresh(random: Random) -> bytes:
    return b"".join(Sequence(random).parts())[:CASE_BYTES_MAX]


def parts_of(case: bytes) -> list[bytes]:
    """Return the preface, each whole frame, and what is left over."""
    parts = []
    rest = case
    if case.startswith(PREFACE):
        parts, rest = [PREFACE], case[len(PREFACE) :]
    at = 0
    for each in frames_of(rest):
        end = at + FRAME_HEADER_BYTES + len(each.payload)
        parts.append(rest[at:end])
        at = end
    return [*parts, rest[at:]]


def mutated_frames(random: Random, case: bytes, other: bytes) -> bytes:
    """Change a sequence frame by frame."""
    parts = parts_of(case)
    for _ in range(random.choice((1, 1, 2, 3))):
        at = random.randrange(len(parts))
        match random.randrange(9):
            case 0:
                del parts[at]
                parts = parts or [b""]
            case 1:
                parts[at:at] = [parts[at]] * random.choice((1, 1, 2, 20))
            case 2:
                to = random.randrange(len(parts))
                parts[at], parts[to] = parts[to], parts[at]
            case 3:
                parts.insert(at, random.choice(parts_of(other)))
            case 4:
                parts[at:at] = Sequence(random).parts()[2:]
            case 5:
                parts[at:] = parts_of(other)[at:]
            case 6 if len(parts[at]) > FRAME_HEADER_BYTES:
                head, payload = parts[at][:FRAME_HEADER_BYTES], parts[at][FRAME_HEADER_BYTES:]
                payload = mutated(random, payload, WORDS)
                parts[at] = len(payload).to_bytes(3) + head[3:] + payload
            case _ if len(parts[at]) >= FRAME_HEADER_BYTES:
                parts[at] = _head_changed(random, parts[at])
            case _:
                parts[at] = mutated(random, parts[at], WORDS)
    return b"".join(parts)[:CASE_BYTES_MAX]


def _head_changed(random: Random, part: bytes) -> bytes:
    """Change a frame's type, flags, stream, or what it says of its length."""
    changed = bytearray(part)
    match random.randrange(5):
        case 0:
            changed[3] = random.choice((*range(11), 0x10, 0xFF))
        case 1:
            changed[4] ^= 1 << random.randrange(8)
        case 2 | 3:
            stream = random.choice((0, 1, 2, 3, 5, 7, 0x7FFFFFFF, 0x80000001))
            changed[5:9] = stream.to_bytes(4)
        case _:
            length = random.choice((0, 1, 4, 5, 8, 0x4000, 0x4001, 0xFFFFFF, len(part) - 10))
            changed[:3] = max(0, length).to_bytes(3)
    return bytes(changed)
