"""Pictures of pages, small enough to be kept with the documents."""

import io
from pathlib import Path
from typing import Final

COLOURS: Final = 64  # Pages have few; letters' edges need the rest.


def keep(png: bytes, path: Path) -> None:
    """Write a picture with a palette: about a third of its size, and hardly another to the eye."""
    from PIL import Image  # noqa: PLC0415 - for those who keep pictures.

    with Image.open(io.BytesIO(png)) as picture:
        flat = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
        flat.save(path, optimize=True)
