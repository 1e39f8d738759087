"""The requests and replies that pass to an upstream as they are, for the API's description.

Only what clinvk itself looks at, and what a reader must know to ask; fields that are not named
pass, too.
"""

from pydantic import BaseModel, ConfigDict


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class ModelOnly(_Open):
    """A request for an upstream."""

    model: str


class ModerationRequest(ModelOnly):
    """What is to be judged: a text, several, or parts."""

    input: str | list[object]


class Moderation(_Open):
    """A judgement for each input."""

    id: str
    model: str
    results: list[dict[str, object]]


class ImageRequest(ModelOnly):
    """A picture in words."""

    prompt: str


class Images(_Open):
    """Pictures, by address or base64."""

    created: int
    data: list[dict[str, object]]


class ImageForm(ModelOnly):
    """Pictures to change, and how, in words."""

    image: list[bytes]
    prompt: str


class SpeechRequest(ModelOnly):
    """A text to say."""

    input: str
    voice: object


class SoundForm(ModelOnly):
    """Sound to write down."""

    file: bytes


class Transcription(_Open):
    """What was said."""

    text: str


class Bytes(BaseModel):
    """The sound itself."""
