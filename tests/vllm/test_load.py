"""A real server's load, as the engine reads it."""

from __future__ import annotations

from ocr_api.engines import Load, Supplies
from ocr_api.engines.vllm import Vllm
from ocr_api.processes import Pool
from tests.vllm.chain import TEXT_CARD
from tests.vllm.servers import Server


def no_pool(entry: str, memory_bytes: int) -> Pool:
    raise AssertionError("this engine has no processes")


async def test_a_real_server_says_its_load(servers: dict[str, Server]) -> None:
    engine = Vllm(Supplies(no_pool))
    load = await engine.load(TEXT_CARD, f"{servers['text'].base}/v1")
    await engine.close()
    assert isinstance(load, Load)
    assert (load.running, load.waiting) == (0, 0)
