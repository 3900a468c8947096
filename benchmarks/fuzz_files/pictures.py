"""Mutations of folders of pictures."""

import contextlib
import io
import os
import pickle
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import PIL.Image

from fuzz_files.damage import DAMAGES, Mutation, Runs, strange, write
from landscape import data


class Folder:
    """Folders of pictures by class."""

    def __init__(self, folder: Path) -> None:
        self.mutations: list[tuple[str, Mutation]] = [
            *[(name, self._damage(change)) for name, change in DAMAGES],
            *[(f"{name} again", self._damage(change)) for name, change in DAMAGES],
            ("mode", self._mode),
            ("size", self._size),
            ("bomb", self._bomb),
            ("other format", self._other_format),
            ("names", self._names),
            ("splits", self._splits),
            ("no file", self._no_file),
            ("text chunks", self._chunks),
            ("valid", lambda folder, stream: self._valid(folder, stream)),
        ]

    _FORMATS: ClassVar[dict[str, str]] = {
        "png": "PNG",
        "jpg": "JPEG",
        "bmp": "BMP",
        "ppm": "PPM",
        "webp": "WEBP",
        "tif": "TIFF",
    }

    def use(self, folder: Path, stream: random.Random) -> None:
        """Read the pictures in some size and number of channels."""
        resize = stream.choice([None, None, (8, 8), (3, 9), (1, 1)])
        channels = stream.choice([None, 1, 3])
        images = data.load(str(folder / "pictures"), stream.choice(("train", "test")), resize=resize, channels=channels)
        images.batch(0, 2)

    def _picture(self, stream: random.Random, suffix: str, mode: str = "RGB", size: tuple[int, int] = (6, 5)) -> bytes:
        picture = PIL.Image.frombytes("RGB", size, stream.randbytes(3 * size[0] * size[1]))
        if mode == "I;16":
            picture = PIL.Image.fromarray(np.full(size[::-1], stream.randrange(2**16), dtype=np.uint16))
        elif mode == "F":
            picture = PIL.Image.fromarray(np.full(size[::-1], np.nan, dtype=np.float32))
        elif mode != "RGB":
            picture = picture.convert(mode)
        buffer = io.BytesIO()
        picture.save(buffer, self._FORMATS[suffix])
        return buffer.getvalue()

    def _valid(self, folder: Path, stream: random.Random, top: str = "pictures") -> Path:
        """Two classes of two pictures; the path of the last."""
        path = folder
        for label in ("ants", "bees"):
            for number in range(2):
                suffix = stream.choice(tuple(self._FORMATS))
                path = folder / top / label / f"{number}.{suffix}"
                write(path, self._picture(stream, suffix))
        return path

    def _damage(self, change: Callable[[bytes, random.Random], bytes]) -> Mutation:
        def mutate(folder: Path, stream: random.Random) -> None:
            path = self._valid(folder, stream)
            path.write_bytes(change(path.read_bytes(), stream))

        return mutate

    def _mode(self, folder: Path, stream: random.Random) -> None:
        mode, suffix = stream.choice(
            [
                ("1", "png"),
                ("L", "png"),
                ("LA", "png"),
                ("P", "png"),
                ("RGBA", "png"),
                ("I;16", "png"),
                ("I", "png"),
                ("F", "tif"),
                ("CMYK", "jpg"),
                ("CMYK", "tif"),
                ("LAB", "tif"),
                ("YCbCr", "tif"),
                ("I;16", "tif"),
            ]
        )
        with contextlib.suppress(ValueError, OSError):
            for number in range(2):
                write(folder / "pictures" / "ants" / f"{number}.{suffix}", self._picture(stream, suffix, mode))

    def _size(self, folder: Path, stream: random.Random) -> None:
        self._valid(folder, stream)
        size = stream.choice([(1, 1), (1, 3000), (3000, 1), (7, 5), (200, 200)])
        write(folder / "pictures" / "ants" / "0.png", self._picture(stream, "png", size=size))

    def _bomb(self, folder: Path, stream: random.Random) -> None:
        """A header that claims a huge picture, with little or much behind it."""
        self._valid(folder, stream)
        width, height = stream.choice(
            [(2**31 - 1, 2**31 - 1), (60000, 60000), (13000, 13000), (9500, 9500), (2**20, 2**10), (0, 0), (6900, 6900)]
        )
        kind = stream.choice(["png", "png", "bmp", "ppm", "tif"])
        if kind == "png":
            header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
            rows = zlib.compress(bytes(min(1 + 3 * width, 10**6) * 20), 9)
            content = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")
        elif kind == "bmp":
            content = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54)
            content += struct.pack("<IiiHHIIiiII", 40, min(width, 2**31 - 1), -height % 2**31, 1, 24, 0, 0, 0, 0, 0, 0)
        elif kind == "ppm":
            content = b"P6\n%d %d\n255\n" % (width, height) + bytes(1000)
        else:
            tags = [(256, width), (257, height), (258, 8), (259, 5), (262, 1), (273, 8), (278, height), (279, 4)]
            content = b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", len(tags))
            content += b"".join(struct.pack("<HHII", tag, 4, 1, value % 2**32) for tag, value in tags) + bytes(4)
        write(folder / "pictures" / "ants" / f"0.{kind}", content)

    def _other_format(self, folder: Path, stream: random.Random) -> None:
        """What is no picture, or of a kind that starts other programs, under a picture's name."""
        self._valid(folder, stream)
        gif = io.BytesIO()
        PIL.Image.new("P", (6, 5)).save(gif, "GIF")
        postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 5\n%%EndComments\n"
        postscript += b"(canary) (w) file closefile\nshowpage\n"
        content = stream.choice(
            [
                postscript,
                gif.getvalue(),
                b"<svg xmlns='http://www.w3.org/2000/svg'/>",
                pickle.dumps(Runs(stream)),
                b"GIF89a" + bytes(30),
                b"PK\x03\x04" + bytes(40),
                b"\x00" * 5000,
                b"SIMPLE  =  T" + bytes(3000),
            ]
        )
        write(folder / "pictures" / "ants" / f"0.{stream.choice(('png', 'jpg', 'tiff'))}", content)

    def _names(self, folder: Path, stream: random.Random) -> None:
        self._valid(folder, stream)
        name = stream.choice([b"\xff\xfe", b"\x1b[2J", b"<script>", b"a" * 240, b"new\nline", b".hidden", b"-rf", b" "])
        where = os.fsencode(folder / "pictures") + b"/" + (name if stream.random() < 0.5 else b"ants")
        os.makedirs(where, exist_ok=True)
        content = self._picture(stream, "png") if stream.random() < 0.5 else b"no picture"
        with open(where + b"/" + name[:200] + b".png", "wb") as file:
            file.write(content)

    def _splits(self, folder: Path, stream: random.Random) -> None:
        for split in stream.sample(("train", "test", "val"), stream.randrange(1, 4)):
            top = folder / "pictures" / split
            top.mkdir(parents=True)
            for label in stream.sample(("ants", "bees", "cats"), stream.randrange(4)):
                (top / label).mkdir()
                for number in range(stream.randrange(3)):
                    write(top / label / f"{number}.png", self._picture(stream, "png"))

    def _no_file(self, folder: Path, stream: random.Random) -> None:
        if stream.random() < 0.2:
            strange(folder / "pictures", stream)
            return
        self._valid(folder, stream)
        strange(folder / "pictures" / "ants" / stream.choice(("x.png", "0.tiff")), stream)
        if stream.random() < 0.3:
            (folder / "pictures" / "loop").symlink_to(folder / "pictures" / "loop")

    def _chunks(self, folder: Path, stream: random.Random) -> None:
        """Text, profiles and animation frames of a PNG that unfold to much."""
        self._valid(folder, stream)
        picture = self._picture(stream, "png")
        end = picture.index(b"IEND") - 4
        much = zlib.compress(bytes(2**26), 9)
        chunk = stream.choice(
            [
                (b"zTXt", b"a\x00\x00" + much),
                (b"iCCP", b"a\x00\x00" + much),
                (b"iTXt", b"a\x00\x01\x00\x00\x00" + much),
                (b"acTL", struct.pack(">II", 2**31, 0)),
                (b"tRNS", stream.randbytes(9)),
                (b"eXIf", stream.randbytes(99)),
            ]
        )
        place = stream.choice([end, picture.index(b"IDAT") - 4])
        write(folder / "pictures" / "ants" / "0.png", picture[:place] + _chunk(*chunk) + picture[place:])


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
