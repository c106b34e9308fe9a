"""Says when Kafka goes away, why and what to check, and when it is back."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from connectors.kafka_writer import KafkaWriter, WriteFailed

EVERY_S: Final = 10.0


async def watch(writer: KafkaWriter, log: Any, meanwhile: str) -> None:
    """Look after the cluster of *writer* until it is cancelled.

    Args:
        meanwhile: what happens while it is away.
    """
    is_away = False
    while True:
        try:
            await writer.missing(())
        except WriteFailed as failed:
            if not is_away:
                log.error(f"Kafka is away: {meanwhile}", why=str(failed))
            is_away = True
        else:
            if is_away:
                log.info("Kafka is back")
            is_away = False
        await asyncio.sleep(EVERY_S)
