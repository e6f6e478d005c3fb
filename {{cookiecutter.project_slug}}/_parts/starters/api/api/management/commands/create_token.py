from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser

from api.models import Token


class Command(BaseCommand):
    help = "Create an API token for a user and print it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")
        parser.add_argument("--name", default="create_token", help="program that uses the token")

    def handle(self, *, username: str, name: str, **options: object) -> str:
        users = get_user_model()
        try:
            user = users._default_manager.get_by_natural_key(username)
        except users.DoesNotExist:
            raise CommandError(f"There is no user {username!r}. Check the username.") from None
        return Token.objects.create(user=user, name=name).secret
