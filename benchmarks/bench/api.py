"""One JSON endpoint, on django-ninja and on Django REST framework; fast.py and bolt.py have it, too."""

from django.http import HttpRequest
from ninja import NinjaAPI, Schema
from rest_framework import serializers
from rest_framework.decorators import api_view
from rest_framework.response import Response

ITEMS = [{"id": number, "name": f"item {number}", "price": number / 4, "tags": ["a", "b"]} for number in range(20)]

api = NinjaAPI(urls_namespace="bench", docs_url=None)


class Item(Schema):
    id: int
    name: str
    price: float
    tags: list[str]


@api.get("", response=list[Item])
async def ninja(request: HttpRequest) -> list[dict[str, object]]:
    return ITEMS


class ItemSerializer(serializers.Serializer):
    id = serializers.IntegerField()
    name = serializers.CharField()
    price = serializers.FloatField()
    tags = serializers.ListField(child=serializers.CharField())


@api_view(["GET"])
def rest_framework(request: HttpRequest) -> Response:
    return Response(ItemSerializer(ITEMS, many=True).data)
