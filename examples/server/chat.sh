#!/usr/bin/env bash
# A reply, a stream, and what they cost.
set -euo pipefail
url=${KILOTOK_URL:-http://127.0.0.1:8000}
ask() {
  curl --silent --show-error --fail-with-body --no-buffer "$url/v1/chat/completions" \
    -H 'content-type: application/json' -H "x-api-key: ${KILOTOK_API_KEY:-}" "$@"
}
messages='[{"role": "user", "content": "Tell me about the river."}]'

echo '# one reply'
ask -d "{\"messages\": $messages, \"max_tokens\": 40}"
echo
echo '# a stream, whose last event says how fast it was'
ask -d "{\"messages\": $messages, \"max_tokens\": 40, \"stream\": true, \"stream_options\": {\"include_usage\": true}}"
