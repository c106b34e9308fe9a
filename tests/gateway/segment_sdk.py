"""Makes one call of every kind with Segment's own client: MODULES HOST WRITE_KEY. Prints how many failed.

It runs in a process of its own, since what the client needs is not what the tests need.
"""

from __future__ import annotations

import sys

sys.path.insert(0, sys.argv[1])


def main(host: str, write_key: str) -> int:
    """Send them."""
    from segment.analytics.client import Client  # type: ignore[import-not-found]

    from tests.formats.record_segment import calls

    failed: list[object] = []
    client = Client(
        write_key, host=host, gzip=True, upload_interval=0.2, max_retries=5,
        on_error=lambda error, items: failed.append((error, items)),
    )  # fmt: skip
    calls(client)
    client.shutdown()
    for one in failed:
        sys.stderr.write(f"{one}\n")
    sys.stdout.write(f"{len(failed)} failed\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[2:]))
