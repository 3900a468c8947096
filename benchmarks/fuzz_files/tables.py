"""Mutations of published tables."""

import codecs
import gzip
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from fuzz_files.damage import DAMAGES, Mutation, strange
from landscape.surface import cli


class Csv:
    """Published surfaces as CSV, shown by the command and saved as NetCDF."""

    def __init__(self, folder: Path) -> None:
        self.mutations: list[tuple[str, Mutation]] = [
            *[(name, self._damage(change)) for name, change in DAMAGES],
            ("cells", self._cells),
            ("cells again", self._cells),
            ("coordinates", self._coordinates),
            ("many coordinates", self._many),
            ("shape", self._shape),
            ("encoding", self._encoding),
            ("quotes", self._quotes),
            ("name", self._name),
            ("no file", lambda folder, stream: strange(folder / "case.csv", stream)),
            ("valid", lambda folder, stream: self._save(folder, self._rows(stream))),
        ]

    def use(self, folder: Path, stream: random.Random) -> None:
        """As a user draws it, without the drawing."""
        path = next((path for path in folder.iterdir() if path.name.endswith(".csv")), folder / "case.csv")
        cli.main(["--from-csv", str(path), "--out", str(folder / "out.nc"), *stream.choice([[], ["--json"]])])

    def _rows(self, stream: random.Random, side: int | None = None) -> list[list[str]]:
        count, side = stream.choice([16, 19]), side or stream.choice([1, 2, 3, 5, 6])
        before = 2 if count == 16 else 4
        rows = []
        for beta in range(side):
            for alpha in range(side):
                row = [f"{stream.random():.4f}" for _ in range(count)]
                row[:2] = [f"{alpha - side // 2}", f"{beta - side // 2}"]
                row[before + 1 : before + 3] = ["0.0", "0.9"]
                rows.append(row)
        return rows

    @staticmethod
    def _save(folder: Path, rows: Sequence[Sequence[str]]) -> None:
        (folder / "case.csv").write_text("\n".join(",".join(row) for row in rows) + "\n", errors="surrogateescape")

    def _damage(self, change: Callable[[bytes, random.Random], bytes]) -> Mutation:
        def mutate(folder: Path, stream: random.Random) -> None:
            self._save(folder, self._rows(stream))
            path = folder / "case.csv"
            path.write_bytes(change(path.read_bytes(), stream))

        return mutate

    def _cells(self, folder: Path, stream: random.Random) -> None:
        rows = self._rows(stream)
        for _ in range(stream.choice([1, 1, len(rows)])):
            row = stream.choice(rows)
            row[stream.randrange(2, len(row))] = stream.choice(
                ["nan", "inf", "-inf", "1e999", "", "text", "1_0", "0x1", "-1e308", "1e308", "٣", "9" * 5000, "\x1b[2J"]
            )
        if stream.random() < 0.3:
            for row in rows:
                row[2 if len(row) == 16 else 4] = stream.choice(["nan", "inf", "0", "1e308", "-1e308"])
        self._save(folder, rows)

    def _coordinates(self, folder: Path, stream: random.Random) -> None:
        rows = self._rows(stream)
        values = ["nan", "inf", "-inf", "1e308", "1e-300", "", "x", "0", "1e20", "-0.0"]
        row = stream.choice(rows)
        row[stream.randrange(2)] = stream.choice(values)
        if stream.random() < 0.4:
            value = stream.choice(values)
            for row in rows:
                row[0] = value
        self._save(folder, rows)

    def _many(self, folder: Path, stream: random.Random) -> None:
        """As many coordinates as rows."""
        tail = ["0.5", "0.0", "0.9", *["0.5"] * 11]
        count = stream.choice([3000, 60_000])
        self._save(folder, [[f"{n / count:.9f}", f"{(n * 7919 % count) / count:.9f}", *tail] for n in range(count)])

    def _shape(self, folder: Path, stream: random.Random) -> None:
        rows = self._rows(stream)
        what = stream.randrange(7)
        if what == 0:
            rows = [row[: stream.randrange(20)] for row in rows]
        elif what == 1:
            rows.append(rows[0])
        elif what == 2:
            rows = rows[1:]
        elif what == 3:
            rows[-1] = rows[-1] + ["1"]
        elif what == 4:
            rows = []
        elif what == 5:
            rows = [[*row, *["1"] * 100_000] for row in rows[:3]]
        else:
            rows = [["1"] * width for width in range(1, 400)]
        self._save(folder, rows)

    def _encoding(self, folder: Path, stream: random.Random) -> None:
        self._save(folder, self._rows(stream))
        path = folder / "case.csv"
        text = path.read_text()
        content = stream.choice(
            [
                text.encode("utf-16"),
                codecs.BOM_UTF8 + text.encode(),
                text.encode().replace(b"0.", b"\xff\xfe", 1),
                text.encode().replace(b"\n", b"\r"),
                text.encode().replace(b",", b";"),
                text.encode().replace(b",", b"\x00,", 3),
                gzip.compress(text.encode()),
                text.encode() + b"\x80",
            ]
        )
        path.write_bytes(content)

    def _quotes(self, folder: Path, stream: random.Random) -> None:
        self._save(folder, self._rows(stream))
        path = folder / "case.csv"
        content = path.read_bytes()
        path.write_bytes(
            stream.choice([b'"' + b"x" * 200_000 + b'",' + content, b'"' + content, content + b'"', b'"' * 99_999])
        )

    def _name(self, folder: Path, stream: random.Random) -> None:
        self._save(folder, self._rows(stream))
        name = stream.choice(
            [b"\xff\xfe.csv", b"\x1b[2J.csv", b"<script>.csv", b"new\nline.csv", b"@DATA@.csv", b" .csv"]
        )
        os.rename(folder / "case.csv", os.fsencode(folder) + b"/" + name)
