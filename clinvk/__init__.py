"""clinvk serves the coding CLIs you are logged in to as OpenAI models."""

__version__ = "0.1.0"
