"""Mutations of ``.npz`` files."""

import io
import pickle
import random
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fuzz_files.damage import DAMAGES, Mutation, Runs, bits, strange, write, zeroed
from landscape import data


class Npz:
    """``.npz`` files of images and labels."""

    def __init__(self, folder: Path) -> None:
        self._images = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
        self._labels = np.array([0, 1, 2, 0, 1, 2])
        self._bomb: bytes | None = None
        self.mutations: list[tuple[str, Mutation]] = [
            *[(name, self._damage(change)) for name, change in DAMAGES],
            ("labels", self._odd_labels),
            ("images", self._odd_images),
            ("members", self._odd_members),
            ("header", self._odd_header),
            ("compression", self._compression),
            ("zip fields", self._zip_fields),
            ("bomb", self._bombs),
            ("pickled", self._pickled),
            ("no file", lambda folder, stream: strange(folder / "case.npz", stream)),
            ("valid", self._valid),
        ]

    def use(self, folder: Path, stream: random.Random) -> None:
        """Read the images and take a batch."""
        images = data.load(str(folder / "case.npz"))
        images.batch(0, 2)

    def _content(self, *, packed: bool = False, **changes: Any) -> bytes:
        buffer = io.BytesIO()
        (np.savez_compressed if packed else np.savez)(
            buffer, **{"images": self._images, "labels": self._labels, **changes}
        )
        return buffer.getvalue()

    def _damage(self, change: Callable[[bytes, random.Random], bytes]) -> Mutation:
        return lambda folder, stream: write(
            folder / "case.npz", change(self._content(packed=stream.random() < 0.5), stream)
        )

    def _valid(self, folder: Path, stream: random.Random) -> None:
        (folder / "case.npz").write_bytes(self._content(packed=stream.random() < 0.5))

    def _odd_labels(self, folder: Path, stream: random.Random) -> None:
        count = len(self._images)
        labels: Any = stream.choice(
            [
                np.full(count, np.nan),
                np.array(["cat"] * count),
                np.full(count, -1),
                np.full(count, 2**62),
                np.full(count, 2**64 - 1, dtype=np.uint64),
                np.zeros((count, 1), dtype=int),
                np.zeros(count - 1, dtype=int),
                np.zeros(count, dtype=bool),
                np.zeros(0, dtype=int),
                np.zeros(count, dtype=">i8"),
                np.array(3),
                np.zeros(count, dtype="datetime64[s]"),
                np.zeros(count, dtype=complex),
                np.zeros(count, dtype=[("a", "i4")]),
                np.full(count, 9_999_999),
            ]
        )
        (folder / "case.npz").write_bytes(self._content(labels=labels))

    def _odd_images(self, folder: Path, stream: random.Random) -> None:
        whole = self._images.transpose(0, 3, 1, 2)
        images: Any = stream.choice(
            [
                whole.astype(">f4"),
                whole.astype(np.float16),
                whole.astype(np.longdouble),
                whole.astype(complex),
                whole.astype(bool),
                whole.astype(np.int32),
                whole.astype(np.float32) * np.nan,
                whole.astype(np.float64) / 0.0 if stream.random() < 0 else np.full(whole.shape, np.inf),
                np.asfortranarray(whole.astype(np.float32)),
                self._images[0],
                self._images[:0],
                self._images[:, :0],
                np.zeros((6,) * 9, dtype=np.uint8)[:, :0],
                np.array(3.0),
                np.zeros(6, dtype="V8"),
                np.zeros(6, dtype="U3"),
                np.full(whole.shape, 1e308),
            ]
        )
        (folder / "case.npz").write_bytes(self._content(images=images))

    def _odd_members(self, folder: Path, stream: random.Random) -> None:
        buffer = io.BytesIO()
        names = stream.choice(
            [
                ["../images.npy", "labels.npy"],
                ["images.npy", "images.npy", "labels.npy", "labels.npy"],
                ["\x1b[2J.npy", "<script>.npy"],
                ["images", "labels"],
                ["images.npy"],
                [],
                [f"{number}.npy" for number in range(3000)],
                ["images.npy/", "labels.npy"],
                ["x" * 60000],
            ]
        )
        with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(buffer, "w") as archive:
            for name in names:
                archive.writestr(name, _npy(self._labels if "labels" in name else self._images))
        content = buffer.getvalue()
        if stream.random() < 0.3:
            content = content.replace(b"images", b"im\xff\xfees")
        (folder / "case.npz").write_bytes(content)

    def _odd_header(self, folder: Path, stream: random.Random) -> None:
        text = stream.choice(
            [
                "{'descr': '|O', 'fortran_order': False, 'shape': (6,), }",
                "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 5, 4, 3), }",
                "{'descr': '|u1', 'fortran_order': False, 'shape': (-6, 5, 4, 3), }",
                "{'descr': '|u1', 'fortran_order': False, 'shape': (6.5, 5, 4, 3), }",
                "{'descr': '|u1', 'fortran_order': 'maybe', 'shape': (6, 5, 4, 3), }",
                "{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999999999, 9999999999), }",
                "{'descr': '|V2000000000', 'fortran_order': False, 'shape': (6,), }",
                "{'descr': [('a', '|u1', (1000000, 1000000))], 'fortran_order': False, 'shape': (6,), }",
                "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (6,), }",
                "(" * 900,
                "{'descr': '|u1'}",
                "__import__('payload')",
                "[" * 300 + "]" * 300,
                "\x00" * 100,
                "1" * 900,
                "-" * 800 + "1",
                "{'descr': '|u1', 'fortran_order': False, 'shape': (0, 5, 4, 3), }",
                "{'descr': '|u1', 'fortran_order': False, 'shape': " + "(" * 90 + ")" * 90 + ", }",
            ]
        )
        version, length = stream.choice([((1, 0), "<H"), ((2, 0), "<I"), ((3, 0), "<I"), ((9, 9), "<H")])
        header = text.encode() + b"\n"
        size = len(header) if stream.random() < 0.7 else stream.choice([0, 65535, len(header) + 7])
        member = b"\x93NUMPY" + bytes(version) + struct.pack(length, size) + header + self._images.tobytes()
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("images.npy", member)
            archive.writestr("labels.npy", _npy(self._labels))
        (folder / "case.npz").write_bytes(buffer.getvalue())

    def _compression(self, folder: Path, stream: random.Random) -> None:
        method = stream.choice([zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_DEFLATED])
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.writestr("images.npy", _npy(self._images))
            archive.writestr("labels.npy", _npy(self._labels))
        content = buffer.getvalue()
        change = stream.choice([lambda whole, _: whole, bits, zeroed])
        (folder / "case.npz").write_bytes(change(content, stream))

    def _zip_fields(self, folder: Path, stream: random.Random) -> None:
        """Flags (encrypted), sizes, offsets and methods of the directory at the end."""
        content = bytearray(self._content(packed=stream.random() < 0.5))
        entry = content.index(b"PK\x01\x02")
        if stream.random() < 0.5:
            entry = content.index(b"PK\x01\x02", entry + 4)
        field, form = stream.choice([(8, "<H"), (10, "<H"), (16, "<I"), (20, "<I"), (24, "<I"), (42, "<I"), (28, "<H")])
        value = stream.choice([0, 1, 9, 99, 2**16 - 1, 2**31, 2**32 - 1, stream.randrange(2**32)])
        struct.pack_into(form, content, entry + field, value % 2 ** (16 if form == "<H" else 32))
        (folder / "case.npz").write_bytes(bytes(content))

    def _bombs(self, folder: Path, stream: random.Random) -> None:
        if self._bomb is None:
            self._bomb = _zeros_deflated(3 * 2**30)
        size = 3 * 2**30
        shape = (size // 1024, 32, 32, 1)
        header = _npy_header(np.dtype(np.uint8), shape)
        declared = stream.choice([size + len(header), 1000, 2**40])
        # One deflate stream: the header stored, the zeros after it.
        body = b"\x00" + struct.pack("<HH", len(header), 0xFFFF ^ len(header)) + header + self._bomb
        (folder / "case.npz").write_bytes(
            _zip_of([("images.npy", 8, body, declared), ("labels.npy", 0, _npy(self._labels), None)])
        )

    def _pickled(self, folder: Path, stream: random.Random) -> None:
        things = np.array([Runs(stream)] * 6, dtype=object)
        where = stream.choice(["images", "labels", "other"])
        changes: dict[str, Any] = {where: things}
        content = self._content(**changes)
        if stream.random() < 0.3:
            buffer = io.BytesIO()
            np.save(buffer, things, allow_pickle=True)
            content = stream.choice([buffer.getvalue(), _npy(self._images), pickle.dumps(Runs(stream))])
        (folder / "case.npz").write_bytes(content)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


def _zeros_deflated(count: int) -> bytes:
    """Zeros in one deflate stream: a block that begins with a fresh dictionary can be repeated as it is."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(2**24)
    packed = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    return packed * (count // len(block)) + packer.flush()


def _zip_of(members: Sequence[tuple[str, int, bytes, int | None]]) -> bytes:
    """A zip file that says of its members what it is told to: name, method, content, unpacked size."""
    body, directory = b"", b""
    for name, method, content, declared in members:
        size = min(len(content) if declared is None else declared, 2**32 - 1)
        checksum = zlib.crc32(content) if method == 0 else 0
        facts = struct.pack("<HHHHHIIIHH", 20, 0, method, 0, 33, checksum, len(content), size, len(name), 0)
        place = len(body)
        body += b"PK\x03\x04" + facts + name.encode() + content
        directory += b"PK\x01\x02" + struct.pack("<H", 20) + facts + struct.pack("<HHHII", 0, 0, 0, 0, place)
        directory += name.encode()
    end = struct.pack("<HHHHIIH", 0, 0, len(members), len(members), len(directory), len(body), 0)
    return body + directory + b"PK\x05\x06" + end
