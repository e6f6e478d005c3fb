import asyncio
import logging
import signal
import uuid
from datetime import timedelta

from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from status.checks import check_concurrently
from status.models import Lease, Result, Service
from status.tasks import retry_failed_tasks

logger = logging.getLogger(__name__)

CHECK_RUN_TIMEOUT_SECONDS = 55
LEASE_SECONDS = 60  # longer than a check run and its preparation
RESULT_RETENTION = timedelta(days=2)


class Command(BaseCommand):
    help = "Check all services periodically and store the results. One checker is active at a time."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--interval", type=float, default=30, help="seconds between check runs")
        parser.add_argument("--once", action="store_true", help="run the checks once and exit")

    def handle(self, *, interval: float, once: bool, **options: object) -> None:
        # Hosts stop processes with SIGTERM, which skips `finally` by default, unlike Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            asyncio.run(check_services(interval, once))
        except KeyboardInterrupt:
            self.stdout.write("Stopped.")


async def check_services(interval: float, once: bool = False) -> None:
    holder = uuid.uuid4()
    try:
        while True:
            try:
                if await Lease.acquire(holder, LEASE_SECONDS + interval):
                    await run_checks()
                else:
                    logger.info("Another checker is active.")
            except Exception:  # such as a database outage: the next check run may succeed
                logger.exception("A check run failed")
            if once:
                break
            await asyncio.sleep(interval)
    finally:
        await Lease.release(holder)


async def run_checks() -> None:
    await retry_failed_tasks()
    await Result.objects.filter(checked__lt=timezone.now() - RESULT_RETENTION).adelete()
    services = [service async for service in Service.objects.all()]
    async with asyncio.timeout(CHECK_RUN_TIMEOUT_SECONDS):
        await check_concurrently(services, save=True)
    logger.info("Checked %s services", len(services))
