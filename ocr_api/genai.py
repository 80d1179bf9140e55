"""OpenTelemetry's names for a question to a model: span attributes, and nothing else.

Source: the semantic conventions for generative AI (status: Development), as of the package
``opentelemetry-semantic-conventions`` 0.66b2 and its successor, the repository
``open-telemetry/semantic-conventions-genai``; ``server.*`` are stable (1.43). They still change:
``gen_ai.system`` became `PROVIDER_NAME`. Attributes of prompts and answers are left out on purpose.
"""

from __future__ import annotations

CHAT = "chat"
"""The operation; a span of one is called ``chat {model}``."""
OPERATION_NAME = "gen_ai.operation.name"
PROVIDER_NAME = "gen_ai.provider.name"
"""Which dialect is spoken."""
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
"""A list, since a server may be asked for several answers."""
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
