#!/usr/bin/env bash
# Ask a model with curl, streamed. Usage: examples/curl.sh [MODEL]
set -euo pipefail
base=${OPENAI_BASE_URL:-http://127.0.0.1:8080/openai/v1}

curl --silent --show-error --fail-with-body --no-buffer "$base/chat/completions" \
  --header "Content-Type: application/json" \
  --data '{
    "model": "'"${1:-echo}"'",
    "stream": true,
    "messages": [{"role": "user", "content": "Say hello in one sentence."}]
  }'
