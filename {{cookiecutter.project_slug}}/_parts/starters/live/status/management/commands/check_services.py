import asyncio
import logging
import signal
import uuid
from datetime import timedelta

from django.core.management.base import BaseCommand
from django.utils import timezone

from status.checks import check_concurrently
from status.models import Lease, Result, Service
from status.tasks import try_again

logger = logging.getLogger(__name__)

CHECK_RUN_TIMEOUT_SECONDS = 55
LEASE_SECONDS = 60  # longer than a check run takes, with what it does before
KEEP = timedelta(days=2)


class Command(BaseCommand):
    help = "Check all services again and again, and store what comes of it. Of several, one works."

    def add_arguments(self, parser):
        parser.add_argument("--interval", type=float, default=30, help="seconds between two rounds")
        parser.add_argument("--once", action="store_true", help="one round, then stop")

    def handle(self, *, interval, once, **options):
        # A host stops a process with SIGTERM, which Python does not clean up after, as it does after Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            asyncio.run(check_services(interval, once))
        except KeyboardInterrupt:
            self.stdout.write("Stopped.")


async def check_services(interval, once=False):
    holder = uuid.uuid4()
    try:
        while True:
            try:
                if await Lease.take(holder, LEASE_SECONDS + interval):
                    await check_round()
                else:
                    logger.info("Another checker is at work.")
            except Exception:  # the database, say, may be back for the next round
                logger.exception("A round was not finished")
            if once:
                break
            await asyncio.sleep(interval)
    finally:
        await Lease.give_back(holder)


async def check_round():
    await try_again()
    await Result.objects.filter(checked__lt=timezone.now() - KEEP).adelete()
    services = [service async for service in Service.objects.all()]
    async with asyncio.timeout(CHECK_RUN_TIMEOUT_SECONDS):
        await check_concurrently(services, save=True)
    logger.info("Checked %s services", len(services))
