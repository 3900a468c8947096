import dataclasses
import io
import os
import pickle
import tarfile
import zipfile

import numpy as np
import PIL.Image
import pytest
import torch

from landscape import data
from landscape.errors import LandscapeError


def made(count=7, size=6, padding=2, flip=True, **changes):
    stream = torch.Generator().manual_seed(1)
    return data.Images(
        images=torch.randint(1, 256, (count, 3, size, size), generator=stream).to(torch.uint8),
        labels=torch.arange(count) % 3,
        classes=3,
        name="made",
        split="train",
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
        crop_padding=padding,
        flip=flip,
        **changes,
    )


def refused(*words):
    return pytest.raises(LandscapeError, match="(?s)" + ".*".join(words))


class TestImages:
    def test_batch_is_scaled_and_normalised(self):
        images = made()
        expected = images.images[2:5].double() / 255
        expected = (expected - torch.tensor([0.5, 0.4, 0.3])[:, None, None].double()) / torch.tensor(
            [0.2, 0.3, 0.4], dtype=torch.float64
        )[:, None, None]
        assert torch.allclose(images.batch(2, 5, torch.float64), expected, atol=1e-6)
        assert images.batch(2, 5).dtype == torch.float32

    def test_sets_of_any_floating_type_have_a_hash_of_their_own(self):
        one = data.Images(torch.ones(4, 3, 2, 2, dtype=torch.bfloat16), torch.zeros(4).long(), 1, "a", "")
        assert one.sha256 != data.Images(one.images * 2, one.labels, 1, "a", "").sha256
        examples = data.Examples(torch.ones(4, 3, dtype=torch.bfloat16), None)
        assert examples.sha256 != data.Examples(examples.inputs.float(), None).sha256

    def test_float_images_are_used_as_they_are(self):
        images = dataclasses.replace(made(), images=torch.randn(7, 3, 6, 6), mean=None, std=None)
        assert torch.equal(images.batch(0, 7), images.images)

    def test_subsets_are_seeded_nested_and_the_whole_keeps_its_order(self):
        images = made()
        small, large = images.subset(3, 5), images.subset(6, 5)
        assert torch.equal(small.images, large.images[:3])
        assert not torch.equal(large.labels, images.subset(6, 6).labels)
        assert images.subset(7, 5) is images

    def test_hash_sees_pixels_labels_order_and_normalisation(self):
        images = made()
        others = [
            images.select(torch.tensor([1, 0, 2, 3, 4, 5, 6])),
            dataclasses.replace(images, labels=(images.labels + 1) % 3),
            dataclasses.replace(images, mean=(0.5, 0.4, 0.2)),
        ]
        assert len({images.sha256, *(other.sha256 for other in others)}) == 4
        assert made().sha256 == images.sha256

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"labels": torch.full((7,), 3)}, ["label 3 of image 0", "out of range"]),
            ({"labels": torch.full((7,), -1)}, ["label -1", "out of range"]),
            ({"labels": torch.zeros(6, dtype=torch.int64)}, ["7 images"]),
            ({"images": torch.zeros(7, 6, 6)}, ["shape"]),
            ({"images": torch.zeros(0, 3, 6, 6), "mean": None, "std": None}, ["no images"]),
            ({"mean": (0.5,)}, ["mean", "3 channels"]),
            ({"std": (0.0, 1.0, 1.0)}, ["positive"]),
            ({"images": torch.zeros(7, 3, 6, 6)}, ["used as they are"]),
        ],
    )
    def test_inconsistent_sets_are_refused(self, changes, words):
        with refused(*words):
            dataclasses.replace(made(), **changes)

    def test_asking_for_too_many_is_refused(self):
        with refused("7 images", "8"):
            made().subset(8, 0)


class TestAugmentation:
    def test_every_crop_is_that_of_the_zero_padded_raw_image(self):
        images = made().images
        drawn = torch.tensor([[y, x, m] for y, x, m in [(0, 0, 0), (4, 4, 0), (2, 2, 1), (1, 3, 1)] * 2])[:7]
        cropped = data.augment(images, drawn, padding=2)
        padded = np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
        for index, (row, column, mirrored) in enumerate(drawn.tolist()):
            expected = padded[index, :, row : row + 6, column : column + 6]
            expected = expected[:, :, ::-1] if mirrored else expected
            assert np.array_equal(cropped[index].numpy(), expected)

    def test_grouping_into_batches_changes_nothing(self):
        images = made(50).images
        drawn = data.draws(50, seed=3, epoch=2, padding=2, flip=True)
        whole = data.augment(images, drawn, padding=2)
        parts = [data.augment(images[rows], drawn[rows], padding=2) for rows in torch.arange(50).split(7)]
        assert torch.equal(whole, torch.cat(parts))

    def test_draws_are_uniform_and_depend_on_seed_and_epoch(self):
        drawn = data.draws(9000, seed=0, padding=1, flip=True)
        counts = torch.bincount(drawn[:, 0] * 6 + drawn[:, 1] * 2 + drawn[:, 2], minlength=18)
        assert ((counts - 500).abs() < 5 * 500**0.5).all()
        assert torch.equal(drawn, data.draws(9000, seed=0, padding=1, flip=True))
        for other in ({"seed": 1}, {"seed": 0, "epoch": 1}):
            assert not torch.equal(drawn, data.draws(9000, padding=1, flip=True, **other))
        assert data.draws(100, seed=0, padding=1, flip=False)[:, 2].sum() == 0

    def test_frozen_set_replays_and_is_not_augmented_twice(self):
        images = made()
        frozen = images.augmented(4)
        assert torch.equal(frozen.images, images.augmented(4).images)
        assert not torch.equal(frozen.images, images.images)
        assert torch.equal(frozen.augmented(9).images, frozen.images)
        assert (images.augmented(5).images == 0).any()  # raw zeros, not the mean, come in at the border

    def test_the_global_generator_is_neither_read_nor_moved(self):
        before = torch.get_rng_state()
        made().augmented(4)
        made().subset(3, 1)
        data.load("digits")
        assert torch.equal(before, torch.get_rng_state())


class TestNamed:
    """What a file may name as its data: a closed list, and nothing is imported or opened for anything else."""

    @pytest.mark.parametrize(
        "name",
        [
            "os:abort",
            "timeit:main",
            "payload.py:data",
            "./digits",
            "digits\x1b[2J",
            "DIGITS",
            "",
            None,
            7,
            ["digits"],
            "digits:" + "x" * 10_000,
        ],
    )
    def test_anything_else_is_refused_in_one_line(self, tmp_path, monkeypatch, name):
        (tmp_path / "payload.py").write_text("open('ran', 'w')\ndata = None\n")
        monkeypatch.chdir(tmp_path)
        with refused("may name", "--data") as caught:
            data.named(name)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 300
        assert not (tmp_path / "ran").exists()

    def test_a_known_set_is_loaded(self):
        assert data.named("digits", "test").sha256 == data.load("digits", "test").sha256


class TestDigits:
    def test_parts_are_disjoint_stratified_and_fixed(self):
        train, test = data.load("digits", "train"), data.load("digits", "test")
        assert (len(train), len(test)) == (1438, 359)
        assert train.shape == (3, 16, 16)
        shares = torch.bincount(test.labels) / (torch.bincount(train.labels) + torch.bincount(test.labels))
        assert ((shares - 0.2).abs() < 0.01).all()
        rows = {image.numpy().tobytes() for image in train.images}
        assert not rows & {image.numpy().tobytes() for image in test.images}
        pixels = train.batch(0, len(train))
        assert abs(pixels.mean()) < 1e-3
        assert abs(pixels.std() - 1) < 1e-3


def binary_records(count, labels, label_bytes):
    stream = np.random.default_rng(0)
    pixels = stream.integers(0, 256, (count, 3072), dtype=np.uint8)
    coarse = np.zeros((count, label_bytes - 1), dtype=np.uint8)
    return pixels, np.concatenate([coarse, np.asarray(labels, dtype=np.uint8)[:, None], pixels], axis=1).tobytes()


def python_batch(pixels, labels, key):
    # As the archives are: protocol 2, keys that are byte strings.
    return pickle.dumps({b"data": pixels, key: labels, b"batch_label": b"one"}, protocol=2)


class TestCifar:
    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("version", ["binary", "python"])
    def test_cifar100_by_every_archive(self, tmp_path, version, packed):
        labels = [3, 99, 0, 42]
        pixels, records = binary_records(4, labels, 2)
        folder, file, content = {
            "binary": ("cifar-100-binary", "test.bin", records),
            "python": ("cifar-100-python", "test", python_batch(pixels, labels, b"fine_labels")),
        }[version]
        if packed:
            with tarfile.open(tmp_path / f"cifar-100-{version}.tar.gz", "w:gz") as archive:
                member = tarfile.TarInfo(f"{folder}/{file}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        else:
            (tmp_path / folder).mkdir()
            (tmp_path / folder / file).write_bytes(content)
        images = data.load("cifar100", "test", root=tmp_path)
        assert images.labels.tolist() == labels
        assert np.array_equal(images.images.numpy(), pixels.reshape(4, 3, 32, 32))
        assert (images.classes, images.crop_padding, images.flip) == (100, 4, True)
        assert images.mean == (0.5071, 0.4867, 0.4408)
        assert images.images.clone().add_(1).dtype == torch.uint8

    @pytest.mark.parametrize("version", ["bin", "py"])
    def test_cifar10_joins_its_five_batches_in_order(self, tmp_path, version):
        folder = tmp_path / f"cifar-10-batches-{version}"
        folder.mkdir()
        for number in range(1, 6):
            pixels, records = binary_records(2, [number, 9 - number], 1)
            if version == "bin":
                (folder / f"data_batch_{number}.bin").write_bytes(records)
            else:
                (folder / f"data_batch_{number}").write_bytes(python_batch(pixels, [number, 9 - number], b"labels"))
        images = data.load("cifar10", "train", root=tmp_path)
        assert images.labels.tolist() == [1, 8, 2, 7, 3, 6, 4, 5, 5, 4]
        assert images.classes == 10

    def test_the_first_ten_classes_of_cifar100_are_a_set_of_their_own(self, tmp_path):
        pixels, records = binary_records(6, [3, 99, 9, 10, 0, 3], 2)
        (tmp_path / "cifar-100-binary").mkdir()
        (tmp_path / "cifar-100-binary" / "test.bin").write_bytes(records)
        images = data.load("cifar100-10", "test", root=tmp_path)
        assert images.labels.tolist() == [3, 9, 0, 3]
        assert np.array_equal(images.images.numpy(), pixels.reshape(6, 3, 32, 32)[[0, 2, 4, 5]])
        assert (images.classes, images.population, images.title) == (10, 4, "cifar100-10 (test)")
        whole = data.load("cifar100", "test", root=tmp_path)
        assert (images.mean, images.std) == (whole.mean, whole.std)
        assert (whole.classes, whole.population) == (100, 6)

    @pytest.mark.parametrize(
        "label",
        ["cat", None, float("nan"), 1e30, 10**400, -1, 100, True, b"\xff", [1]],
        ids=lambda label: repr(label)[:9],
    )
    def test_labels_that_are_no_class_are_refused(self, tmp_path, label):
        pixels, _ = binary_records(2, [1, 2], 2)
        (tmp_path / "cifar-100-python").mkdir()
        (tmp_path / "cifar-100-python" / "test").write_bytes(python_batch(pixels, [1, label], b"fine_labels"))
        with refused("of image 1 is out of range", r"0\.\.99") as caught:
            data.load("cifar100", "test", root=tmp_path)
        assert len(str(caught.value)) < 300

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"\x80\x02Nr\xff\xff\xff\x7f.", "no 'data'"),  # LONG_BINPUT: no table of 2^31 references
            (b"\x80\x05\x96" + (2**33).to_bytes(8, "little") + b".", "bytearray8|BYTEARRAY8"),
            (b"cnumpy\nndarray\n((I100000\nI100000\nttR.", "asks for numpy.ndarray"),
            (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I100000000000\ntS'b'\ntR.", "no 'data'"),
            (pickle.dumps({b"\xff\xfe": 1, "\ud800": 2, None: 3}), "surrogates|no 'data'"),
        ],
    )
    def test_pickles_that_ask_for_memory_or_hold_something_else_are_refused(self, tmp_path, content, words):
        (tmp_path / "cifar-100-python").mkdir()
        (tmp_path / "cifar-100-python" / "test").write_bytes(content)
        with refused(f"({words})"):
            data.load("cifar100", "test", root=tmp_path)

    def test_a_link_in_an_archive_is_refused(self, tmp_path):
        with tarfile.open(tmp_path / "cifar-100-binary.tar.gz", "w:gz") as archive:
            member = tarfile.TarInfo("cifar-100-binary/test.bin")
            member.type, member.linkname = tarfile.SYMTYPE, member.name
            archive.addfile(member)
        with refused("not a regular file"):
            data.load("cifar100", "test", root=tmp_path)

    def test_a_pickle_that_would_execute_code_does_not(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return (open, (str(tmp_path / "executed"), "w"))

        (tmp_path / "cifar-100-python").mkdir()
        (tmp_path / "cifar-100-python" / "test").write_bytes(pickle.dumps({b"data": Evil()}, protocol=2))
        with refused("not a CIFAR python batch", "open"):
            data.load("cifar100", "test", root=tmp_path)
        assert not (tmp_path / "executed").exists()

    def test_damage_is_told(self, tmp_path):
        with refused("no cifar100 under", "cifar-100-binary", "--data-root"):
            data.load("cifar100", "test", root=tmp_path)
        folder = tmp_path / "cifar-100-binary"
        folder.mkdir()
        with refused("has no test.bin"):
            data.load("cifar100", "test", root=tmp_path)
        _, records = binary_records(3, [1, 2, 100], 2)
        (folder / "test.bin").write_bytes(records[:-1])
        with refused("whole records"):
            data.load("cifar100", "test", root=tmp_path)
        (folder / "test.bin").write_bytes(records)
        with refused("label 100 of image 2", "out of range"):
            data.load("cifar100", "test", root=tmp_path)
        (folder / "test.bin").write_bytes(b"")
        with refused("no images"):
            data.load("cifar100", "test", root=tmp_path)
        (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"garbage")
        with refused("cannot be read"):
            data.load("cifar10", "test", root=tmp_path)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write_picture(path, colour, size=(6, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size, colour).save(path)


class TestGiven:
    def test_npz_of_floats_and_of_bytes(self, tmp_path):
        floats = np.random.default_rng(0).normal(size=(4, 2, 5, 6)).astype(np.float32)
        np.savez(tmp_path / "f.npz", images=floats, labels=np.array([0, 1, 4, 1], dtype=np.int32))
        images = data.load(tmp_path / "f.npz")
        assert images.classes == 5
        assert np.array_equal(images.batch(0, 4).numpy(), floats)
        pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
        np.savez(tmp_path / "b.npz", images=pixels, labels=np.zeros(4, dtype=np.uint8))
        plain = data.load(tmp_path / "b.npz").batch(0, 4)
        assert torch.allclose(plain, torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
        shifted = data.load(tmp_path / "b.npz", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)).batch(0, 4)
        assert torch.allclose(shifted, (plain - 0.5) / 0.25)

    @pytest.mark.parametrize(
        ("arrays", "words"),
        [
            ({"images": np.zeros((2, 1, 4, 4))}, ["no array 'labels'"]),
            ({"images": np.zeros((2, 1, 4, 4)), "labels": np.array([0.5, 1.0])}, ["integers"]),
            ({"images": np.zeros((2, 1, 4, 4)), "labels": np.array([0, -1])}, ["label -1 of image 1"]),
            ({"images": np.zeros((2, 1, 4, 4)), "labels": np.array([0, 1, 2])}, ["2 images"]),
            ({"images": np.zeros((0, 1, 4, 4)), "labels": np.zeros(0, dtype=int)}, ["no images"]),
            ({"images": np.zeros((2, 4, 4)), "labels": np.array([0, 1])}, ["shape"]),
            ({"images": np.zeros((2, 1, 4, 4), dtype=np.int32), "labels": np.array([0, 1])}, ["int32"]),
            ({"images": np.zeros((2, 1, 8, 8), dtype=np.uint8), "labels": np.array([0, 1])}, ["transpose"]),
            ({"images": np.full((2, 1, 4, 4), np.nan), "labels": np.array([0, 1])}, ["image 0 has non-finite"]),
            ({"images": np.array([{}], dtype=object), "labels": np.array([0])}, ["plain arrays"]),
        ],
    )
    def test_bad_npz(self, tmp_path, arrays, words):
        np.savez(tmp_path / "bad.npz", **arrays)
        with refused(*words):
            data.load(tmp_path / "bad.npz")

    def test_images_with_masks_are_examples(self, tmp_path):
        path = tmp_path / "masks.npz"
        pixels, masks = np.zeros((4, 3, 6, 5), dtype=np.float32), np.ones((4, 6, 5), dtype=int)
        np.savez(path, images=pixels, labels=masks)
        examples = data.load_any(path)
        assert (next(iter(examples.inputs.values())).shape, examples.targets.shape) == ((4, 3, 6, 5), (4, 6, 5))
        np.savez(path, images=pixels.astype(np.uint8), labels=masks)
        with refused(r"labels of shape \(4, 6, 5\)", "floating point"):
            data.load_any(path)

    def test_a_table_in_text_is_told_how_to_become_arrays(self, tmp_path):
        (tmp_path / "table.csv").write_text("a,b\n1,2\n")
        with refused("table in text", r"np.savez\('data.npz', x=..., y=...\)"):
            data.load_any(tmp_path / "table.csv")

    def test_own_images_have_neither_split_nor_known_population(self, tmp_path):
        np.savez(tmp_path / "a.npz", images=np.zeros((3, 1, 4, 4)), labels=np.array([0, 1, 0]))
        images = data.load(tmp_path / "a.npz", "test")
        assert (images.title, images.population) == (str(tmp_path / "a.npz"), None)
        assert "a sample of an unknown population" in images.described()
        digits = data.load("digits", "test")
        assert digits.described() == "all 359 images of digits (test)"
        assert digits.subset(20, 0).described() == "20 of the 359 images of digits (test)"

    @pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_compressions_that_numpy_does_not_write_are_refused(self, tmp_path, method):
        with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
            for name, array in {"images": np.zeros((3, 1, 4, 4)), "labels": np.array([0, 1, 0])}.items():
                archive.writestr(f"{name}.npy", npy(array))
        with refused("not compressed as NumPy does it", "np.savez"):
            data.load(tmp_path / "a.npz")

    def test_a_small_file_that_claims_gigabytes_is_refused_before_they_are_taken(self, tmp_path):
        np.savez_compressed(tmp_path / "a.npz", images=np.zeros((3, 1, 4, 4)), labels=np.array([0, 1, 0]))
        content = bytearray((tmp_path / "a.npz").read_bytes())
        place = content.index(b"PK\x01\x02")
        content[place + 24 : place + 28] = (2**31).to_bytes(4, "little")  # unpacked size
        (tmp_path / "a.npz").write_bytes(bytes(content))
        with refused(r"unfold to 2,147,483,\d+"):
            data.load(tmp_path / "a.npz")

    def test_a_single_array_and_flipped_bits_are_answered(self, tmp_path):
        np.save(tmp_path / "a.npy", np.zeros((3, 1, 4, 4)))
        with refused("single array", "labels"):
            data.load(tmp_path / "a.npy")
        np.savez(tmp_path / "a.npz", images=np.ones((3, 1, 4, 4)), labels=np.array([0, 1, 0]))
        content = bytearray((tmp_path / "a.npz").read_bytes())
        content[content.index(np.ones(4).tobytes())] ^= 1
        (tmp_path / "a.npz").write_bytes(bytes(content))
        with refused("CRC"):
            data.load(tmp_path / "a.npz")

    def test_byte_orders_and_labels_beyond_any_class(self, tmp_path):
        swapped = np.arange(48.0).reshape(3, 1, 4, 4).astype(">f4")
        np.savez(tmp_path / "a.npz", images=swapped, labels=np.array([0, 1, 0], dtype=">i8"))
        assert np.array_equal(data.load(tmp_path / "a.npz").batch(0, 3).numpy(), swapped.astype(np.float32))
        np.savez(tmp_path / "a.npz", images=swapped, labels=np.array([0, 2**64 - 1, 0], dtype=np.uint64))
        with refused("label 18446744073709551615 of image 1"):
            data.load(tmp_path / "a.npz")

    def test_garbage_and_missing_files(self, tmp_path):
        (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 not really")
        with refused("not a readable"):
            data.load(tmp_path / "bad.npz")
        with refused("neither a known set nor a file", "digits"):
            data.load("digit")

    def test_folder_by_class(self, tmp_path):
        for split in ("train", "val"):
            for label, name in enumerate(["ants", "bees"]):
                (tmp_path / split / name).mkdir(parents=True)
                PIL.Image.new("RGB", (5, 4), (10, 20, 30 + label)).save(tmp_path / split / name / "one.png")
        images = data.load(tmp_path, "test")
        assert (images.shape, images.labels.tolist(), images.classes) == ((3, 4, 5), [0, 1], 2)
        assert images.images[1, :, 0, 0].tolist() == [10, 20, 31]
        PIL.Image.new("RGB", (6, 4)).save(tmp_path / "train" / "bees" / "two.png")
        with refused("two.png is 6x4", "one size"):
            data.load(tmp_path, "train")
        (tmp_path / "train" / "bees" / "two.png").write_bytes(b"no picture")
        with refused("two.png is not a readable picture"):
            data.load(tmp_path, "train")

    @pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "bmp", "ppm", "webp", "tif", "tiff"])
    def test_every_kind_of_picture_is_read(self, tmp_path, suffix):
        write_picture(tmp_path / "a" / f"0.{suffix}", (200, 100, 50))
        assert data.load(tmp_path).images[0, :, 2, 2].tolist() == pytest.approx([200, 100, 50], abs=3)

    def test_classes_of_the_splits_are_matched_by_name(self, tmp_path):
        for split, classes in {"train": "abc", "test": "ac"}.items():
            for name in classes:
                write_picture(tmp_path / split / name / "0.png", (ord(name), 0, 0))
        images = data.load(tmp_path, "test")
        assert (images.labels.tolist(), images.classes) == ([0, 2], 3)
        assert images.title == f"{tmp_path} (test)"
        write_picture(tmp_path / "test" / "d" / "0.png", (0, 0, 0))
        with refused("test/d", "no class of that name"):
            data.load(tmp_path, "test")
        assert data.load(tmp_path, "train").labels.tolist() == [0, 1, 2]

    def test_differing_sizes_are_brought_to_one(self, tmp_path):
        write_picture(tmp_path / "a" / "0.png", (10, 20, 30), size=(8, 4))
        write_picture(tmp_path / "a" / "1.png", (40, 50, 60), size=(5, 9))
        with refused("5x9", "--resize 4"):
            data.load(tmp_path)
        images = data.load(tmp_path, resize=(4, 6))
        assert images.shape == (3, 4, 6)
        assert images.images[:, :, 0, 0].tolist() == [[10, 20, 30], [40, 50, 60]]
        # The shorter side is scaled, the longer one cut at both ends.
        stripes = np.zeros((4, 12, 3), dtype=np.uint8)
        stripes[:, 4:8] = 255
        PIL.Image.fromarray(stripes).save(tmp_path / "a" / "0.png")
        (tmp_path / "a" / "1.png").unlink()
        assert data.load(tmp_path, resize=(4, 4)).images.min() == 255
        with refused("for folders of pictures"):
            data.load("digits", resize=(4, 4))

    def test_grey_pictures_stay_grey_where_one_channel_is_wanted(self, tmp_path):
        (tmp_path / "a").mkdir()
        grey = np.arange(20, dtype=np.uint8).reshape(4, 5)
        PIL.Image.fromarray(grey).save(tmp_path / "a" / "0.png")
        PIL.Image.fromarray(np.stack([grey] * 3, axis=2)).save(tmp_path / "a" / "1.png")
        PIL.Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "a" / "2.png")
        one, three = data.load(tmp_path, channels=lambda height, width: height // 4), data.load(tmp_path)
        assert (one.shape, three.shape) == ((1, 4, 5), (3, 4, 5))
        for images in (one, three):
            assert (images.images == torch.from_numpy(grey)).all()
        write_picture(tmp_path / "a" / "3.png", (1, 2, 3), size=(5, 4))
        with refused("3.png is in colour"):
            data.load(tmp_path, channels=1)

    def test_pipes_bombs_and_programs_among_pictures_are_refused(self, tmp_path):
        (tmp_path / "a").mkdir()
        path = tmp_path / "a" / "x.png"
        os.mkfifo(path)
        with refused("x.png", "not a regular file"):
            data.load(tmp_path)
        path.unlink()
        # Decoders are told apart by content: PostScript would start an interpreter.
        path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 5\n%%EndComments\nshowpage\n")
        with refused("x.png is not a readable picture", "cannot identify"):
            data.load(tmp_path)
        PIL.Image.new("1", (30_000, 30_000)).save(path)
        with refused("x.png", "900000000 pixels"):
            data.load(tmp_path)
        PIL.Image.new("1", (8000, 8000)).save(path)
        with refused("8000x8000"):
            data.load(tmp_path)

    def test_empty_folder(self, tmp_path):
        with refused("holds no pictures"):
            data.load(tmp_path)

    def test_factory_in_a_file(self, tmp_path):
        (tmp_path / "mine.py").write_text(
            "import torch\n"
            "def pairs(split):\n"
            "    n = 3 if split == 'train' else 2\n"
            "    return torch.utils.data.TensorDataset(torch.ones(n, 1, 4, 4), torch.arange(n))\n"
            "def tensors():\n    return torch.zeros(2, 1, 4, 4), torch.tensor([0, 1])\n"
            "def wrong():\n    return 7\n"
            "def fails():\n    raise RuntimeError('two\\nlines')\n"
        )
        assert data.load(f"{tmp_path}/mine.py:pairs", "test").labels.tolist() == [0, 1]
        assert data.load(f"{tmp_path}/mine.py:pairs", "train").classes == 3
        assert data.load(f"{tmp_path}/mine.py:tensors").shape == (1, 4, 4)
        for name, words in {
            "wrong": ["Dataset"],
            "fails": ["two lines"],
            "absent": ["has no 'absent'"],
        }.items():
            with refused(*words) as caught:
                data.load(f"{tmp_path}/mine.py:{name}")
            assert "\n" not in str(caught.value)
        with refused("no file"):
            data.load(f"{tmp_path}/other.py:pairs")
        with refused("importing"):
            data.load("no_such_module:pairs")


class Drawn(torch.utils.data.Dataset):
    """Examples that differ each time they are read."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.rand(5), index % 3


class TestLists:
    def test_the_advice_for_augmenting_data_sets_works(self):
        with refused(r"\[dataset\[i\] for i in range\(len\(dataset\)\)\]"):
            data.as_examples(Drawn())
        dataset = Drawn()
        # Not list(dataset): without __iter__ that asks for examples until one raises IndexError, and none does here.
        frozen = [dataset[i] for i in range(len(dataset))]
        examples = data.as_examples(frozen)
        assert torch.equal(examples.inputs, torch.stack([inputs for inputs, _ in frozen]))
        assert examples.targets.tolist() == [0, 1, 2, 0]
        # Two examples are no pair of inputs and targets.
        assert data.as_examples(frozen[:2]).inputs.shape == (2, 5)

    def test_a_mirror_of_probability_one_half_is_seen(self):
        class Mirrored(Drawn):
            def __len__(self):
                return 16

            def __getitem__(self, index):
                row = torch.arange(5.0) + index
                return row.flip(0) if torch.rand(()) < 0.5 else row, index % 3

        for seed in range(8):
            torch.manual_seed(seed)
            with refused("the first examples differ"):
                data.as_examples(Mirrored())

    def test_pictures_and_mappings_in_a_list(self):
        images = data.as_examples([(PIL.Image.new("RGB", (6, 5)), label) for label in (0, 2, 1)])
        assert (images.shape, images.classes) == ((3, 5, 6), 3)
        rows = [{"ids": torch.arange(4), "labels": number} for number in range(3)]
        examples = data.as_examples(rows)
        assert (examples.inputs["ids"].shape, examples.targets.tolist()) == ((3, 4), [0, 1, 2])

    def test_a_list_of_inputs_and_targets_stays_what_it_was(self):
        x, y = torch.ones(4, 3), torch.arange(4)
        assert data.as_examples([x, y]).targets is not None
        assert len(data.as_examples([x, x, y]).inputs) == 2
        pair = data.as_examples([(x, x), {"y": y}])
        assert (len(pair.inputs), list(pair.targets)) == (2, ["y"])
        assert torch.equal(data.as_examples([(x, x), (y, y)]).inputs[0], x)
        assert data.as_examples([[1, 2], [3, 4]]).inputs.tolist() == [1, 2]
