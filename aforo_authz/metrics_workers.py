"""The metrics of several workers as one page: each figure with the number of its worker."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

ASK_S_MAX = 2.0


class WorkersMetrics:
    """Asks the workers, on the sockets where they show their own."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    async def exposed(self) -> bytes:
        """Return all that the workers show; of one that does not answer, nothing."""
        pages = await asyncio.gather(*(self._ask(path, "/metrics") for path in self._paths))
        registry = CollectorRegistry()
        registry.register(_Merged(pages))
        return generate_latest(registry)

    async def all_ready(self) -> bool:
        pages = await asyncio.gather(*(self._ask(path, "/readyz") for path in self._paths))
        return all(page == b"ok\n" for page in pages)

    async def _ask(self, path: Path, page: str) -> bytes:
        try:
            async with asyncio.timeout(ASK_S_MAX):
                reader, writer = await asyncio.open_unix_connection(str(path))
                writer.write(f"GET {page} HTTP/1.0\r\n\r\n".encode())
                answer = await reader.read(-1)
                writer.close()
        except (OSError, TimeoutError):
            return b""
        return answer.partition(b"\r\n\r\n")[2]


class _Merged(Collector):
    def __init__(self, pages: Sequence[bytes]) -> None:
        self._pages = pages

    def collect(self) -> Iterator[Metric]:
        merged: dict[str, Metric] = {}
        for number, page in enumerate(self._pages):
            for family in text_string_to_metric_families(page.decode()):
                metric = merged.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    labels = {**sample.labels, "worker": str(number)}
                    metric.add_sample(sample.name, labels, sample.value)
        yield from merged.values()
