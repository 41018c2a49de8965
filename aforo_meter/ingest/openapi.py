"""The OpenAPI document, made from the tables that validate, and a page that shows it."""

import html
from collections.abc import Mapping
from importlib import metadata
from typing import Any, Final

from aforo_meter.domain.ingest_fields import (
    ASYNC_BATCH_EVENTS_MAX,
    BATCH_EVENTS_MAX,
    CALL_TOKENS_METRIC,
    METADATA_BYTES_MAX,
    METADATA_LEVELS_MAX,
    PRODUCTS,
    REQUIRED,
    TEXT_UNITS_MAX,
    Boundary,
)
from aforo_meter.domain.outcomes import ExecutionStatus
from aforo_meter.domain.usage import UNITS_MAX
from aforo_meter.ingest.bodies import BODY_BYTES_MAX

JSON: Final = "application/json"
PROBLEM: Final = "application/problem+json"
EVENT: Final = {"$ref": "#/components/schemas/Event"}
ERRORS: Final[Mapping[str, str]] = {
    "400": "The shape is wrong.",
    "401": "No key, or one that is unknown, revoked or expired.",
    "403": "The key lacks the scope, or X-Tenant-Id is not its tenant.",
    "408": "The body came too slowly.",
    "413": f"The body has more than {BODY_BYTES_MAX} bytes.",
    "415": "Not JSON, or packed in another way than gzip and deflate.",
    "503": "Try again with the same bytes and keys, after Retry-After seconds.",
}


def document() -> dict[str, Any]:
    """Return the document, as OpenAPI 3.1 has it."""
    one = {"422": "The metric or the customer is unknown."}
    cloud = {
        "application/cloudevents+json": {"schema": {"$ref": "#/components/schemas/CloudEvent"}},
        "application/cloudevents-batch+json": {
            "schema": {
                "type": "array",
                "maxItems": ASYNC_BATCH_EVENTS_MAX,
                "items": {"$ref": "#/components/schemas/CloudEvent"},
            }
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Aforo usage ingest",
            "version": metadata.version("aforo"),
            "description": "Usage that does not cross the gateway. Each path is also under /api.",
        },
        "security": [{"apiKey": []}, {"bearer": []}],
        "paths": {
            "/v1/ingest": _post(
                "Report one event", {JSON: {"schema": EVENT}}, "202", "Result", one
            ),
            "/v1/ingest/batch": _post(
                f"Report 1 to {BATCH_EVENTS_MAX} events",
                {JSON: {"schema": _batch()}},
                "202",
                "Result",
            ),
            "/v1/ingest/async-batch": _post(
                f"Report 1 to {ASYNC_BATCH_EVENTS_MAX} events",
                {
                    JSON: {
                        "schema": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": ASYNC_BATCH_EVENTS_MAX,
                            "items": EVENT,
                        }
                    }
                },
                "202",
                "Result",
            ),
            "/v1/events": _post("Report CloudEvents 1.0", cloud, "202", "Result", one),
            "/v1/quota/check": _post(
                "Ask before using",
                {JSON: {"schema": {"$ref": "#/components/schemas/QuotaQuestion"}}},
                "200",
                "QuotaAnswer",
            ),
        },
        "components": {
            "securitySchemes": {
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
            "schemas": _schemas(),
        },
    }


def _post(
    summary: str,
    content: Mapping[str, Any],
    status: str,
    schema: str,
    more_errors: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    problem = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    data = {"$ref": f"#/components/schemas/{schema}"}
    wrapped = {
        "type": "object",
        "required": ["success", "data", "meta"],
        "properties": {"success": {"const": True}, "data": data, "meta": {"type": "object"}},
    }
    answers: dict[str, Any] = {
        status: {"description": "What became of it.", "content": {JSON: {"schema": wrapped}}}
    }
    for code, description in sorted({**ERRORS, **(more_errors or {})}.items()):
        answers[code] = {"description": description, "content": problem}
    return {
        "post": {
            "summary": summary,
            "requestBody": {"required": True, "content": dict(content)},
            "responses": answers,
        }
    }


def _batch() -> dict[str, Any]:
    events = {"type": "array", "minItems": 1, "maxItems": BATCH_EVENTS_MAX, "items": EVENT}
    return {"type": "object", "required": ["events"], "properties": {"events": events}}


def _schemas() -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "Event": _event(),
        "CloudEvent": {
            "type": "object",
            "required": ["specversion", "id", "source", "type"],
            "properties": {
                "specversion": {"const": "1.0"},
                "id": text,
                "source": text,
                "type": {"type": "string", "description": "The metricName, unless data says it."},
                "subject": {
                    "type": "string",
                    "description": "The customerId, unless data says it.",
                },
                "time": {"type": "string", "format": "date-time"},
                "data": {"type": "object", "description": "Fields of an Event."},
            },
        },
        "Result": {
            "type": "object",
            "required": ["accepted", "duplicates", "failed", "errors"],
            "properties": {
                "accepted": {"type": "integer"},
                "duplicates": {"type": "integer"},
                "failed": {"type": "integer"},
                "errors": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"index": {"type": "integer"}, "message": text},
                    },
                },
                "killedSessionIds": {"type": "array", "items": text},
            },
        },
        "QuotaQuestion": {
            "type": "object",
            "required": ["customerId"],
            "properties": {
                "customerId": _text("customerId"),
                "metricName": _text("metricName"),
                "estimatedQuantity": {"type": "number", "exclusiveMinimum": 0, "default": 1},
            },
        },
        "QuotaAnswer": {
            "type": "object",
            "properties": {
                "decision": {"enum": ["ALLOW", "WARN", "DENY"]},
                "reason": text,
                "currentUsage": {"type": ["integer", "null"]},
                "limit": {"type": ["integer", "null"]},
                "retryAfterMs": {"type": ["integer", "null"]},
                "tierName": {"type": ["string", "null"]},
                "headers": {"type": "object", "additionalProperties": text},
            },
        },
        "Problem": {
            "type": "object",
            "properties": {
                "type": text,
                "title": text,
                "status": {"type": "integer"},
                "detail": text,
            },
        },
    }


def _event() -> dict[str, Any]:
    properties: dict[str, Any] = {name: _text(name) for name in TEXT_UNITS_MAX}
    properties |= {
        "quantity": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": UNITS_MAX,
            "description": "At most 14 integer digits; rounded half to even at 6 decimals.",
        },
        "occurredAt": {
            "description": "ISO 8601, up to 9 fractional digits, UTC unless it says otherwise; or"
            " Unix seconds. At most 90 days old (a setting) and 5 minutes ahead.",
            "type": ["string", "number"],
        },
        "sessionBoundary": {"enum": list(Boundary), "description": "Makes it a heartbeat."},
        "metadata": {
            "type": "object",
            "description": f"At most {METADATA_BYTES_MAX} bytes and {METADATA_LEVELS_MAX} levels."
            " inputTokens, outputTokens, cachedInputTokens, cacheCreationTokens, reasoningTokens"
            " are counted, model and provider price them.",
        },
    }
    properties["aforoDecisionId"] |= {
        "pattern": "^[0-9a-f]{32}$",
        "description": f"With the metricName {CALL_TOKENS_METRIC}: the tokens in metadata are those"
        " of a call at the gateway, in the place of an estimate.",
    }
    properties["executionStatus"] |= {"enum": list(ExecutionStatus)}
    products = "; ".join(
        f"{name}: {', '.join(product.required) or 'nothing more'}"
        for name, product in PRODUCTS.items()
    )
    properties["productType"]["description"] = f"What each needs besides: {products}."
    return {"type": "object", "required": list(REQUIRED), "properties": properties}


def _text(name: str) -> dict[str, Any]:
    return {"type": "string", "maxLength": TEXT_UNITS_MAX[name]}


def page() -> str:
    """Return a page for people. It asks for nothing: no script, no style, no font of others."""
    told = document()
    rows = "".join(
        f"<tr><td><code>POST {html.escape(path)}</code></td>"
        f"<td>{html.escape(operation['post']['summary'])}</td></tr>"
        for path, operation in told["paths"].items()
    )
    event = told["components"]["schemas"]["Event"]
    fields = "".join(
        f"<tr><td><code>{html.escape(name)}</code></td>"
        f"<td>{'required' if name in event['required'] else ''}</td>"
        f"<td>{html.escape(str(schema.get('maxLength', '')))}</td>"
        f"<td>{html.escape(schema.get('description', ', '.join(schema.get('enum', ()))))}</td></tr>"
        for name, schema in event["properties"].items()
    )
    errors = "".join(
        f"<tr><td>{code}</td><td>{html.escape(why)}</td></tr>" for code, why in ERRORS.items()
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Aforo usage ingest</title>'
        "<style>body{font-family:sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
        "td,th{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0}</style>"
        "<h1>Aforo usage ingest</h1><p>The same for programs: <a href='/openapi.json'>"
        "openapi.json</a>. Each path is also under <code>/api</code>.</p>"
        f"<h2>Paths</h2><table>{rows}</table>"
        "<h2>Fields of an event</h2><table><tr><th>field<th><th>length<th></tr>"
        f"{fields}</table><h2>Errors</h2><table>{errors}</table></html>"
    )
