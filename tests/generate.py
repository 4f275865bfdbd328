"""Seeded logs, key=value lines, CSV and JSON lines with their truth, for tests and the bench.

The truth is counted while writing, so it owes nothing to the code under test. Messages are written to mislead: they
mention levels, services, key=value pairs, quotes, commas and (in CSV) line feeds.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections import Counter
from dataclasses import dataclass, field

KINDS = ("log", "kv", "csv", "jsonl")
SUFFIXES = {"log": ".log", "kv": ".log", "csv": ".csv", "jsonl": ".jsonl"}
SERVICES = ("auth", "billing", "catalog", "gateway", "mail", "orders", "search", "shipping")
LEVELS = ("DEBUG", "INFO", "INFO", "INFO", "WARN", "ERROR")
MESSAGES = (
    "request served",
    "retry after ERROR in upstream",
    "level=ERROR was seen in the text of a reply",
    'peer said "service=auth is down"',
    "queue length, drained, ok",
    "user logged in from mail",
    "timed out waiting for billing",
)


@dataclass
class Made:
    """A text and what is true of it."""

    kind: str
    text: str
    records: int
    by_service: Counter[str] = field(default_factory=Counter)
    by_level: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    by_status: Counter[int] = field(default_factory=Counter)
    timeouts: int = 0
    highest: int = 0


def make(kind: str, size: int, seed: int = 0) -> Made:
    """About `size` bytes of a kind; the service with the most errors depends on the seed and is never a tie."""
    rng = random.Random(f"{kind} {seed}")
    made = Made(kind, "", 0)
    favorite = rng.choice(SERVICES)
    weights = [rng.randint(5, 10) for _ in SERVICES]
    parts: list[str] = []
    length = 0
    if kind == "csv":
        parts.append("time,level,service,status,latency_ms,message\n")
    while length < size:
        service = rng.choices(SERVICES, weights)[0]
        level = rng.choice(LEVELS)
        if service == favorite and rng.random() < 0.2:
            level = "ERROR"
        status = 500 if level == "ERROR" else rng.choice((200, 200, 201, 404))
        latency = int(rng.expovariate(0.01))
        text = rng.choice(MESSAGES)
        line = write(kind, made.records, (level, service, status, latency, text))
        parts.append(line)
        length += len(line)
        made.records += 1
        made.by_service[service] += 1
        made.by_level[level] += 1
        made.by_status[status] += 1
        made.errors[service] += level == "ERROR"
        made.timeouts += "timed out" in text
        made.highest = max(made.highest, latency)
    made.text = "".join(parts)
    return made


def write(kind: str, number: int, values: tuple[str, str, int, int, str]) -> str:
    level, service, status, latency, text = values
    time = (
        f"2026-11-{1 + number // 86400 % 28:02d}T{number // 3600 % 24:02d}:{number // 60 % 60:02d}:{number % 60:02d}Z"
    )
    if kind == "log":
        return f"{time} {level} [{service}] {text} status {status} in {latency} ms\n"
    if kind == "kv":
        quoted = text.replace('"', '\\"')
        return f'time={time} level={level} service={service} status={status} latency_ms={latency} msg="{quoted}"\n'
    if kind == "jsonl":
        row = {"time": time, "level": level, "service": service, "status": status, "latency_ms": latency, "msg": text}
        return json.dumps(row) + "\n"
    if number % 97 == 0:
        text += "\nsecond line, still the same cell"
    cells = io.StringIO()
    csv.writer(cells, lineterminator="\n").writerow([time, level, service, status, latency, text])
    return cells.getvalue()
