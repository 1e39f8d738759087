import base64

import pytest

from clinvk.errors import BadRequestError, UnsupportedError
from clinvk.media import Document, Image, is_pdf, is_remote, read_audio, read_document, read_image
from clinvk.turn import AudioPart, FilePart, ImagePart

PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR4nGP8z8DAwMDAxMDAwMDAAAANHQEDasKb"
    "6QAAAABJRU5ErkJggg=="
)
GIF = "R0lGODdhAgACAIEAAP8AAAAAAAAAAAAAACwAAAAAAgACAAAIBgABCAQQEAA7"
WEBP = (
    "UklGRjwAAABXRUJQVlA4IDAAAADQAQCdASoCAAIAAUAmJaACdLoB+AADsAD+8ut//NgVzXPv9//S4P0uD9Lg/9KQAAA="
)
JPEG = "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAP//////////////////////////////////"


@pytest.mark.parametrize(
    ("kind", "data"), [("png", PNG), ("gif", GIF), ("webp", WEBP), ("jpeg", f"{JPEG}/w==")]
)
def test_each_type_is_known_by_its_content(kind: str, data: str) -> None:
    image = Image(f"image/{kind}", data)
    for part in (
        ImagePart(url=f"data:image/{kind};base64,{data}"),
        ImagePart(url=f"DATA:image/png;charset=utf-8;BASE64,{data}"),
        ImagePart(url=f"data:;base64,{data}"),
        ImagePart(media_type="image/png", data=data),
        ImagePart(data=f" {data[:10]}\n{data[10:]}\r\n".replace("+", "-").replace("/", "_")),
        ImagePart(data=data.rstrip("=")),
    ):
        assert read_image(part, "p") == image
        assert not is_remote(part)
    assert image.url == f"data:image/{kind};base64,{data}"


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (ImagePart(url="data:image/png;base64,!!!!"), "not valid base64"),
        (ImagePart(data="A"), "not valid base64"),
        (ImagePart(data="é"), "not valid base64"),
        (ImagePart(url="data:image/png;base64,"), "none of PNG"),
        (ImagePart(url="data:image/bmp;base64,Qk0="), "none of PNG"),
        (ImagePart(url="data:image/svg+xml,<svg/>"), "must be base64"),
        (ImagePart(url="/etc/passwd"), "'/etc/passwd' is not the address"),
        (ImagePart(url="file:///" + "x" * 100), "…"),
        (ImagePart(), "is not the address"),
    ],
)
def test_what_is_no_image_is_refused_by_its_path(part: ImagePart, said: str) -> None:
    with pytest.raises(BadRequestError, match=said) as caught:
        read_image(part, "messages[1].content[2]")
    assert caught.value.param == "messages[1].content[2]"


@pytest.mark.parametrize("url", ["http://x/a.png", "HTTPS://x/a.png"])
def test_an_address_is_not_content(url: str) -> None:
    assert is_remote(ImagePart(url=url))
    with pytest.raises(UnsupportedError, match="data URL") as caught:
        read_image(ImagePart(url=url), "p")
    assert caught.value.param == "p"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(("kind", "media_type"), [("wav", "audio/wav"), ("MP3", "audio/mp3")])
def test_sound_has_the_type_of_its_format(kind: str, media_type: str) -> None:
    assert read_audio(AudioPart(kind, " UklG\nRg "), "p") == (media_type, "UklGRg==")


@pytest.mark.parametrize(
    ("part", "word"), [(AudioPart("ogg", "AA=="), "'ogg'"), (AudioPart("wav", "!"), "base64")]
)
def test_sound_that_cannot_be_is_refused(part: AudioPart, word: str) -> None:
    with pytest.raises(BadRequestError, match=word) as caught:
        read_audio(part, "messages[0].content[1]")
    assert caught.value.param == "messages[0].content[1]"


def test_a_file_is_what_its_bytes_say() -> None:
    pdf = b64(b"%PDF-1.7 x")
    for data in (pdf, f"data:text/plain;base64,{pdf}"):
        assert read_document(FilePart("a", data=data), "p") == Document("a", pdf, None)
    text = FilePart(None, data=b64("h\u00e9".encode()))
    assert read_document(text, "p") == Document("file", None, "h\u00e9")


@pytest.mark.parametrize(
    ("part", "word"),
    [
        (FilePart("a", data=b64(b"\xff\xfe\x00")), "neither a PDF nor UTF-8"),
        (FilePart("a", data="%%"), "base64"),
        (FilePart("a", file_id="file-1"), "no content here"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(part: FilePart, word: str) -> None:
    with pytest.raises(BadRequestError, match=word) as caught:
        read_document(part, "p")
    assert caught.value.param == "p"


def test_a_pdf_is_known_by_its_first_bytes() -> None:
    pdf = b64(b"%PDF-1.7 " + bytes(500))
    for data in (pdf, f"data:text/plain;base64,{pdf}", f" {pdf[:3]}\n{pdf[3:]}"):
        assert is_pdf(FilePart("a", data=data))
    for other in (None, "", "data:application/pdf;base64,", "!", "é", b64(b"text")):
        assert not is_pdf(FilePart("a.pdf", data=other))


def test_a_text_file_as_text_begins_with_its_name() -> None:
    assert read_document(FilePart("n", data=b64(b"x")), "p").as_text == "n:\nx\n"
    assert read_document(FilePart("n", data=b64(b"%PDF-")), "p").as_text is None
