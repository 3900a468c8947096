"""Mutations of files of directions."""

import io
import json
import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch

from fuzz_files.damage import CANARY, DAMAGES, Mutation, Runs, strange, write
from landscape.data import Images
from landscape.objective import Objective
from landscape.surface import directions, saved_directions

_TEXTS = (
    *("null", "[]", "{}", "7", "NaN", "-Infinity", '"text"', "{", "", "true", "1e999", "1" * 5000),
    *("[" * 5000, "[" * 100_000, '{"a": ' * 5000, '{"a": "' + "x" * 2_000_000 + '"}'),
    *('{"a": null}', '{"a": [1, "x"]}', '{"a": [1, 2]}', '{"kind": 1}', '{"a b": 1}', '{"a": {"b": 1}}', '{"a": true}'),
    *('{"a": [NaN, 0]}', '{"a": NaN}', '{"norms": 1}', '{"eigenvalue_1": 2.5}', '{"a": 1' + "0" * 400 + "}"),
    *('{"\\u001b[2J": [0, 0]}', '{"a": "\\u001b[2J"}', '{"\\ud800": [0, 0]}', '{"a": "\\ud800"}'),
    *("[[0, 0], [1]]", '[[0, "x"]]', "[[0, 0, 0]]", "[[1e400, 0]]", "[[0, 0], [0.5, 0.5]]"),
)
_TYPES = (
    *(torch.int64, torch.bool, torch.uint8, torch.complex64),
    *(torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2),
)


class Directions:
    """Files of directions, read for a small network."""

    def __init__(self, folder: Path) -> None:
        images = Images(torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 0, 1]), 2, "noise", "train")
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        self._objective = Objective(network, images)
        folder.mkdir(parents=True, exist_ok=True)
        path = saved_directions.save(directions.random_directions(self._objective), self._objective, folder / "valid")
        self._content = path.read_bytes()
        (length,) = struct.unpack_from("<Q", self._content)
        self._metadata = json.loads(self._content[8 : 8 + length])["__metadata__"]
        self._tensors = safetensors.torch.load(self._content)
        # Without the checksum, as older versions wrote them: what is damaged is then read as far as it can be.
        del self._metadata["sha256"]
        self._unsealed = safetensors.torch.save(self._tensors, self._metadata)
        self.mutations: list[tuple[str, Mutation]] = [
            *[(name, self._damage(change)) for name, change in DAMAGES],
            ("kind", self._kind),
            ("facts", self._facts),
            ("marks", self._marks),
            ("path", self._path),
            ("names", self._names),
            ("types", self._types),
            ("values", self._values),
            ("header", self._header),
            ("other file", self._other),
            ("no file", lambda folder, stream: strange(folder / "case.safetensors", stream)),
            ("valid", lambda folder, stream: write(folder / "case.safetensors", self._content)),
        ]

    def use(self, folder: Path, stream: random.Random) -> None:
        """Read them and ask for what every result says of its directions."""
        found = saved_directions.load(folder / "case.safetensors", self._objective)
        found.at(self._objective.point, [0.5] * len(found))
        json.dumps([found.kind, dict(found.facts), dict(found.marks), found.norms, found.angle])

    def _damage(self, change: Callable[[bytes, random.Random], bytes]) -> Mutation:
        return lambda folder, stream: write(
            folder / "case.safetensors", change(stream.choice((self._content, self._unsealed)), stream)
        )

    def _save(self, folder: Path, tensors: dict[str, torch.Tensor] | None = None, **metadata: str) -> None:
        content = safetensors.torch.save(tensors or self._tensors, {**self._metadata, **metadata})
        write(folder / "case.safetensors", content)

    def _kind(self, folder: Path, stream: random.Random) -> None:
        self._save(
            folder,
            kind=stream.choice(["", "\x1b[2J\x1b]0;title\x07", "x" * 10**6, "<script>", "hessian", "\u202e", "a\nb"]),
        )

    def _json(self, stream: random.Random) -> str:
        return stream.choice(_TEXTS)

    def _facts(self, folder: Path, stream: random.Random) -> None:
        self._save(folder, facts=self._json(stream))

    def _marks(self, folder: Path, stream: random.Random) -> None:
        self._save(folder, marks=self._json(stream))

    def _path(self, folder: Path, stream: random.Random) -> None:
        self._save(folder, path=self._json(stream))

    def _names(self, folder: Path, stream: random.Random) -> None:
        tensors = dict(self._tensors)
        name = stream.choice(list(tensors))
        moved = tensors.pop(name)
        new = stream.choice(
            ["x/y", "2/1.weight", "1000000000/1.weight", "-1/a", "", "0", "/", "0/", "\x1b[2J", "1e3/a"]
        )
        if stream.random() < 0.7:
            tensors[new] = moved
        if stream.random() < 0.1:
            tensors = {"other": moved}
        self._save(folder, tensors)

    def _types(self, folder: Path, stream: random.Random) -> None:
        kind = stream.choice(_TYPES)
        self._save(folder, {name: tensor.to(kind) for name, tensor in self._tensors.items()})

    def _values(self, folder: Path, stream: random.Random) -> None:
        tensors = {name: tensor.clone() for name, tensor in self._tensors.items()}
        name = stream.choice(list(tensors))
        what = stream.randrange(5)
        if what == 0:
            tensors[name].fill_(stream.choice([float("nan"), float("inf"), -float("inf")]))
        elif what == 1:
            tensors = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        elif what == 2:
            tensors = {name: torch.full_like(tensor, 1e30) for name, tensor in tensors.items()}
        elif what == 3:
            tensors[name] = tensors[name].reshape(-1)[:1]
        else:
            tensors = {name: tensors[f"0/{name.partition('/')[2]}"] for name in tensors}
        self._save(folder, {name: tensor.clone() for name, tensor in tensors.items()})

    def _header(self, folder: Path, stream: random.Random) -> None:
        """Lengths, offsets and nesting of the file's own header."""
        (length,) = struct.unpack_from("<Q", self._unsealed)
        header, body = self._unsealed[8 : 8 + length], self._unsealed[8 + length :]
        what = stream.randrange(5)
        if what == 0:
            content = struct.pack("<Q", stream.choice([0, 2**63, 2**40, length - 1, length + 8, 10**8])) + header + body
        elif what == 1:
            deep = b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"
            content = struct.pack("<Q", len(deep)) + deep + body
        else:
            entries = json.loads(header)
            name = stream.choice([name for name in entries if name != "__metadata__"])
            field = stream.choice(["dtype", "shape", "data_offsets"])
            entries[name][field] = stream.choice(
                ["F32", "Q99", [], [10**12], [-1], [0, 10**15], [8, 4], None, 7, [2**63, 2**64], ["x"], [1e30, 2]]
            )
            if stream.random() < 0.2:
                entries["__metadata__"] = stream.choice([None, [], {"kind": 7}, "text", {}])
            changed = json.dumps(entries).encode()
            content = struct.pack("<Q", len(changed)) + changed + body
        write(folder / "case.safetensors", content)

    def _other(self, folder: Path, stream: random.Random) -> None:
        (folder / "payload.py").write_text(f"open({CANARY!r}, 'w')\n")
        buffer = io.BytesIO()
        torch.save({"0/1.weight": torch.zeros(3, 4)}, buffer)
        write(
            folder / "case.safetensors",
            stream.choice(
                [buffer.getvalue(), pickle.dumps(Runs(stream)), b"\x93NUMPY", b"{}", bytes(8), b"PK\x03\x04"]
            ),
        )
