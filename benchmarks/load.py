"""Requests to a server: an open loop with Poisson arrivals and Zipf's choice of adapters, or so many clients that each wait.

    python benchmarks/load.py '{"port": 8000, "path": "/predict", "bodies": FILE, "seconds": 10, "rate": 50}'

``bodies``: a file with one request a line. ``rate``: arrivals a second; or ``clients``: each sends the next request when its last
one is answered. A latency is counted from the moment a request was due, so that a slow server is not spared (no coordinated
omission). The last line of the output is JSON.
"""

import asyncio
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

Found = tuple[float, int]


async def ask(pool: list[Any], port: int, path: str, body: bytes) -> int:
    """The status of one answer; connections are kept open, and a new one is made where the server has closed the old one."""
    while pool:
        try:
            return await _ask(pool, pool.pop(), path, body)
        except (OSError, asyncio.IncompleteReadError):
            continue  # it was idle for longer than the server keeps it
    return await _ask(pool, await asyncio.open_connection("127.0.0.1", port), path, body)


async def _ask(pool: list[Any], connection: Any, path: str, body: bytes) -> int:
    reader, writer = connection
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    answer = await reader.readuntil(b"\r\n\r\n")
    headers = dict(line.split(b": ", 1) for line in answer.lower().split(b"\r\n")[1:] if b": " in line)
    await reader.readexactly(int(headers[b"content-length"]))
    if headers.get(b"connection") == b"close":
        writer.close()
    else:
        pool.append((reader, writer))
    return int(answer.split(b" ", 2)[1])


async def open_loop(port: int, path: str, bodies: list[bytes], rate: float, seconds: float) -> list[Found]:
    chance, pool, found, tasks = random.Random(1), [], [], []
    began = time.perf_counter()

    async def one(due: float, body: bytes) -> None:
        try:
            status = await ask(pool, port, path, body)
        except (OSError, asyncio.IncompleteReadError):
            status = 0
        found.append((time.perf_counter() - due, status))

    due, number = began, 0
    while due < began + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(due, bodies[number % len(bodies)])))
        due, number = due + chance.expovariate(rate), number + 1
    await asyncio.gather(*tasks)
    return found


async def closed_loop(port: int, path: str, bodies: list[bytes], clients: int, seconds: float) -> list[Found]:
    pool, found = [], []
    end, numbers = time.perf_counter() + seconds, iter(range(1 << 30))

    async def client() -> None:
        while (began := time.perf_counter()) < end:
            status = await ask(pool, port, path, bodies[next(numbers) % len(bodies)])
            found.append((time.perf_counter() - began, status))

    await asyncio.gather(*(client() for _ in range(clients)))
    return found


def summed(found: list[Found], seconds: float) -> dict[str, Any]:
    """Rates and percentiles in milliseconds; those of what was answered with 200 apart from refusals."""
    good = sorted(1000 * latency for latency, status in found if status == 200)
    at = {f"p{p}_ms": good[min(len(good) - 1, len(good) * p // 100)] if good else None for p in (50, 95, 99)}
    return {
        "requests": len(found),
        "answered_per_s": len(good) / seconds,
        **at,
        "statuses": {str(status): count for status, count in sorted(Counter(s for _, s in found).items())},
    }


def main() -> None:
    given = json.loads(sys.argv[1])
    bodies = [line.encode() for line in Path(given["bodies"]).read_text(encoding="utf-8").splitlines()]
    began = time.perf_counter()
    if "rate" in given:
        work = open_loop(given["port"], given["path"], bodies, given["rate"], given["seconds"])
    else:
        work = closed_loop(given["port"], given["path"], bodies, given["clients"], given["seconds"])
    found = asyncio.run(work)
    print(json.dumps(summed(found, time.perf_counter() - began)))


if __name__ == "__main__":
    main()
