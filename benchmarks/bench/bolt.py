"""The endpoint of api.py on django-bolt, which finds it as the project's `api` module."""

import msgspec
from django_bolt import BoltAPI

ITEMS = [{"id": number, "name": f"item {number}", "price": number / 4, "tags": ["a", "b"]} for number in range(20)]

api = BoltAPI()


class Item(msgspec.Struct):
    id: int
    name: str
    price: float
    tags: list[str]


@api.get("/bench/ninja/")
async def items() -> list[Item]:
    return [msgspec.convert(item, Item) for item in ITEMS]
