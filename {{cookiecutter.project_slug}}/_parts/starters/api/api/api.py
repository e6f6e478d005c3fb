"""The API: its routers, authentication and rate limit, and the errors in its OpenAPI schema."""

from http import HTTPStatus
from typing import Any

from django.conf import settings
from ninja import NinjaAPI, Swagger
from ninja.openapi.schema import OpenAPISchema
from ninja.throttling import AuthRateThrottle

from . import notes, upstreams
from .auth import SessionAuth, TokenAuth
from .problems import CONTENT_TYPE, Problem, add_exception_handlers


class API(NinjaAPI):
    def get_openapi_schema(self, **options: Any) -> OpenAPISchema:
        """Add the errors that each operation can return to django-ninja's schema."""
        schema = super().get_openapi_schema(**options)
        template = "#/components/schemas/{model}"
        problem = Problem.model_json_schema(ref_template=template)
        schema["components"]["schemas"] |= problem.pop("$defs") | {"Problem": problem}
        content = {CONTENT_TYPE: {"schema": {"$ref": template.format(model="Problem")}}}
        for path, operations in schema["paths"].items():
            for operation in operations.values():
                statuses = [400, 401, 403, 422, 429] + [404] * ("{" in path)
                operation["responses"] |= {
                    status: {"description": HTTPStatus(status).phrase, "content": content}
                    for status in statuses
                }
        return schema


api = API(
    title=f"{settings.SITE_NAME} API",
    urls_namespace="api",
    # Deep links are links inside buttons, which screen readers do not announce.
    docs=Swagger({"deepLinking": False, "defaultModelsExpandDepth": -1}),
    auth=[TokenAuth(), SessionAuth()],
    throttle=AuthRateThrottle(settings.API_RATE_LIMIT),
)
add_exception_handlers(api)
api.add_router("notes", notes.router)
api.add_router("upstreams", upstreams.router)
