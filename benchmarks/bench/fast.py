"""The endpoint of api.py on FastAPI."""

from fastapi import FastAPI
from pydantic import BaseModel

ITEMS = [{"id": number, "name": f"item {number}", "price": number / 4, "tags": ["a", "b"]} for number in range(20)]

application = FastAPI()


class Item(BaseModel):
    id: int
    name: str
    price: float
    tags: list[str]


@application.get("/bench/ninja/", response_model=list[Item])
async def items() -> list[dict[str, object]]:
    return ITEMS
