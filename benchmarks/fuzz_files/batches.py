"""Mutations of CIFAR's batches and archives."""

import gzip
import io
import pickle
import random
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fuzz_files.damage import CANARY, DAMAGES, Mutation, Runs, strange, write
from landscape import data

_LABELS: tuple[Any, ...] = (
    "cat",
    None,
    float("nan"),
    1e30,
    10**400,
    -1,
    100,
    True,
    [],
    (1, 2),
    b"\xff",
    2**63,
    {"a": 1},
)


class Cifar:
    """CIFAR's binary and python batches, in folders and archives."""

    def __init__(self, folder: Path) -> None:
        stream = np.random.default_rng(0)
        self._pixels = stream.integers(0, 256, (4, 3072), dtype=np.uint8)
        self._records = np.concatenate([np.full((4, 2), 3, dtype=np.uint8), self._pixels], axis=1).tobytes()
        self._bomb: bytes | None = None
        self.mutations: list[tuple[str, Mutation]] = [
            *[(f"binary {name}", self._binary(change)) for name, change in DAMAGES],
            *[(f"python {name}", self._python_damaged(change)) for name, change in DAMAGES],
            *[(f"archive {name}", self._archive_damaged(change)) for name, change in DAMAGES],
            ("labels", self._labels),
            ("keys", self._keys),
            ("arrays", self._arrays),
            ("opcodes", self._opcodes),
            ("opcodes of any kind", self._any_opcodes),
            ("runs", self._runs),
            ("members", self._members),
            ("archive bomb", self._archive_bomb),
            ("no file", self._no_file),
            ("valid", self._valid),
        ]

    def use(self, folder: Path, stream: random.Random) -> None:
        """Read the test images, of all or the first classes."""
        images = data.load(stream.choice(("cifar100", "cifar100-10")), "test", root=folder)
        images.batch(0, 2)

    def _batch(self, protocol: int = 2, **changes: Any) -> bytes:
        entries: dict[Any, Any] = {b"data": self._pixels, b"fine_labels": [3, 99, 0, 42], b"filenames": [b"a"] * 4}
        entries |= {name.encode(): value for name, value in changes.items()}
        return pickle.dumps(entries, protocol=protocol)

    def _put(self, folder: Path, content: bytes, *, version: str = "python") -> None:
        file = "test" if version == "python" else "test.bin"
        write(folder / f"cifar-100-{version}" / file, content)

    def _archive(self, folder: Path, content: bytes, *, version: str = "python") -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
            member = tarfile.TarInfo(f"cifar-100-{version}/{'test' if version == 'python' else 'test.bin'}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        return buffer.getvalue()

    def _binary(self, change: Callable[[bytes, random.Random], bytes]) -> Mutation:
        return lambda folder, stream: self._put(folder, change(self._records, stream), version="binary")

    def _python_damaged(self, change: Callable[[bytes, random.Random], bytes]) -> Mutation:
        return lambda folder, stream: self._put(folder, change(self._batch(stream.choice((0, 1, 2, 3, 4))), stream))

    def _archive_damaged(self, change: Callable[[bytes, random.Random], bytes]) -> Mutation:
        def mutate(folder: Path, stream: random.Random) -> None:
            version = stream.choice(("python", "binary"))
            content = self._archive(folder, self._batch() if version == "python" else self._records, version=version)
            if stream.random() < 0.5:  # damage inside the compression
                content = gzip.compress(change(gzip.decompress(content), stream), 1)
            else:
                content = change(content, stream)
            write(folder / f"cifar-100-{version}.tar.gz", content)

        return mutate

    def _labels(self, folder: Path, stream: random.Random) -> None:
        labels: Any = [3, 99, 0, 42]
        labels[stream.randrange(4)] = stream.choice(_LABELS)
        labels = stream.choice([labels, labels, labels, tuple(labels), None, "text", np.arange(4), labels * 2])
        self._put(folder, self._batch(fine_labels=labels))

    def _keys(self, folder: Path, stream: random.Random) -> None:
        entries: dict[Any, Any] = {
            stream.choice([b"\xff\xfe", 7, None, (1, 2), "d\udcffata", b"data", 1e300]): self._pixels,
            stream.choice([b"fine_labels", "fine_labels", b"\x80", b"labels"]): [1, 2, 3, 4],
        }
        content = pickle.dumps(stream.choice([entries, list(entries.values()), 7, None, [entries]]), protocol=4)
        self._put(folder, content)

    def _arrays(self, folder: Path, stream: random.Random) -> None:
        pixels: Any = stream.choice(
            [
                self._pixels.astype(np.int64),
                self._pixels[:, :-1],
                self._pixels[:0],
                self._pixels[0],
                np.asfortranarray(self._pixels),
                self._pixels.astype(object),
                np.zeros(4, dtype=[("a", "u1", 3072)]),
                np.array(["x"] * 4),
                self._pixels.astype(">u2"),
                self._pixels.tolist(),
                self._pixels.tobytes(),
                None,
            ]
        )
        self._put(folder, self._batch(stream.choice((2, 3, 4)), data=pixels))

    def _opcodes(self, folder: Path, stream: random.Random) -> None:
        """Pickles whose one operation asks for the moon."""
        array = b"cnumpy.core.multiarray\n_reconstruct\n"
        content = stream.choice(
            [
                b"\x80\x02Nr\xff\xff\xff\x7f.",  # LONG_BINPUT
                b"\x80\x02Nr\x00\x00\x00\x10.",
                b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b".",  # BYTEARRAY8
                b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".",  # BINBYTES8
                b"\x80\x04\x8d" + struct.pack("<Q", 2**63) + b".",
                b"\x80\x04\x95" + struct.pack("<Q", 2**50) + b"N.",  # FRAME
                b"\x80\x02\x8b" + struct.pack("<I", 2**31 - 1) + b".",  # LONG4
                b"\x80\x02\x8b" + struct.pack("<I", 2**19) + b"\x7f" * 2**19 + b".",
                b"I" + b"9" * 200_000 + b"\n.",
                b"p" + b"9" * 4000 + b"\n.",
                b"Np2147483647\n.",
                array + b"(cnumpy\nndarray\n(I10000000000\ntS'b'\ntR.",
                b"cnumpy\nndarray\n((I100000\nI100000\nttR.",
                b"cnumpy\ndtype\n(S'V2000000000'\ntR.",
                b"cnumpy\nndarray\n)\x81.",
                b"\x80\x02" + b"]" * 200_000 + b".",
                b"\x80\x02" + b"(" * 200_000 + b"l" * 200_000 + b".",
                b"\x80\x02]" + b"2" * 100 + b".",
                b"\x82\x01.",
                b"\x80\x05\x97.",
                b"Pid\n.",
                b"\x80\x02]q\x00h\x00a.",
                b"c_codecs\nencode\n(Vx\nS'rot13'\ntR.",
                b"(i__main__\nRuns\n.",
                b"\x80\x02}(K\x01" + b"}" * 50_000 + b"u.",
            ]
        )
        self._put(folder, content)

    def _any_opcodes(self, folder: Path, stream: random.Random) -> None:
        """Random operations with random arguments around a valid batch."""
        content = self._batch(stream.choice((2, 4)))
        place = stream.randrange(2, len(content))
        inserted = b"".join(
            bytes([stream.randrange(256)]) + stream.randbytes(stream.randrange(5))
            for _ in range(stream.randrange(1, 9))
        )
        self._put(folder, stream.choice([content[:place] + inserted + content[place:], b"\x80\x04" + inserted + b"."]))

    def _runs(self, folder: Path, stream: random.Random) -> None:
        (folder / "payload.py").write_text(f"open({CANARY!r}, 'w')\n")
        thing: Any = Runs(stream)
        thing = stream.choice([thing, {b"data": thing}, {b"data": self._pixels, b"fine_labels": [thing] * 4}])
        content = pickle.dumps(thing, protocol=stream.randrange(6))
        if stream.random() < 0.5:
            self._put(folder, content)
        else:
            write(folder / "cifar-100-python.tar.gz", self._archive(folder, content))

    def _members(self, folder: Path, stream: random.Random) -> None:
        """Links, sparse members, folders, names that lead elsewhere, sizes that lie."""
        name = "cifar-100-binary/test.bin"
        member = tarfile.TarInfo(name)
        what = stream.choice(
            ["link", "hard link", "link to other", "folder", "fifo", "size", "sparse", "pax", "device", "twice", "path"]
        )
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
            if what in ("link", "hard link", "link to other"):
                member.type = tarfile.LNKTYPE if what == "hard link" else tarfile.SYMTYPE
                member.linkname = name if what != "link to other" else "/etc/passwd"
            elif what == "folder":
                member.type = tarfile.DIRTYPE
            elif what == "fifo":
                member.type = tarfile.FIFOTYPE
            elif what == "device":
                member.type = tarfile.CHRTYPE
            elif what == "sparse":
                member.type = tarfile.GNUTYPE_SPARSE
            elif what == "path":
                member.name = f"../../{name}"
            elif what == "pax":
                member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.realsize": "99999999999", "size": "9" * 30}
            content = self._records
            member.size = (
                0 if what in ("link", "hard link", "link to other", "folder", "fifo", "device") else len(content)
            )
            for _ in range(2 if what == "twice" else 1):
                archive.addfile(member, io.BytesIO(content))
        packed = buffer.getvalue()
        if what == "size":
            unpacked = bytearray(gzip.decompress(packed))
            unpacked[124:136] = stream.choice(
                [b"77777777777\x00", b"\x80" + b"\xff" * 11, b"-0000000001\x00", b"\xff" * 12]
            )
            unpacked[148:156] = b"%06o\x00 " % (sum(unpacked[:148]) + 256 + sum(unpacked[156:512]))
            packed = gzip.compress(bytes(unpacked), 1)
        write(folder / "cifar-100-binary.tar.gz", packed)

    def _archive_bomb(self, folder: Path, stream: random.Random) -> None:
        if self._bomb is None:
            self._bomb = gzip.compress(bytes(2**20), 9)
        kind = stream.choice(["zeros", "member", "long name", "pax"])
        head = tarfile.TarInfo("cifar-100-binary/test.bin")
        head.size = 2**33
        if kind == "long name":
            head.type = tarfile.GNUTYPE_LONGNAME
        elif kind == "pax":
            head.type = tarfile.XHDTYPE
        start = gzip.compress(head.tobuf(tarfile.GNU_FORMAT)) if kind != "zeros" else b""
        # Concatenated gzip members: 2 GiB of zeros in 2 MB.
        write(folder / "cifar-100-binary.tar.gz", start + self._bomb * 2048)

    def _no_file(self, folder: Path, stream: random.Random) -> None:
        place = stream.choice(["cifar-100-python/test", "cifar-100-binary/test.bin", "cifar-100-python.tar.gz"])
        strange(folder / place, stream)
        if stream.random() < 0.2:  # a file that claims more than there is of it
            path = folder / "cifar-100-binary" / "test.bin"
            path.parent.mkdir(exist_ok=True)
            if not path.exists() and not path.is_symlink():
                with open(path, "wb") as file:
                    file.truncate(3074 * 1_000_000)

    def _valid(self, folder: Path, stream: random.Random) -> None:
        if stream.random() < 0.5:
            self._put(folder, self._batch(stream.choice((0, 1, 2, 3, 4))))
        else:
            write(folder / "cifar-100-binary.tar.gz", self._archive(folder, self._records, version="binary"))
