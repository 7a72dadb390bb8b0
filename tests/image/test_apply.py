"""Layer tars applied to an ext4 in an image: what is in it afterwards, and what is refused."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import os
import stat
import struct
import subprocess
import tarfile
import threading
from contextlib import closing
from pathlib import Path

import pytest
import zstandard

from obdsup.errors import AlreadyServed, ConfigError, FormatError, NativeError
from obdsup.format import config
from obdsup.format.image import Image
from obdsup.format.upper_writer import UpperWriter
from obdsup.image.apply import apply_tar, make_file_system
from tests.image.layer_tar import (
    check_clean,
    content,
    directory,
    export,
    hard_link,
    lines_of,
    member,
    new_image,
    symlink,
    tree_of,
    write_tar,
)


def test_vectors_give_the_recorded_trees_and_a_clean_file_system(
    vectors: Path, tmp_path: Path
) -> None:
    image = new_image(tmp_path)
    for n in range(3):
        apply_tar(image, str(vectors / f"layer{n}.tar"), mkfs=n == 0)
        expected = (vectors / "trees" / f"stack-raw.{n + 1}.txt").read_text().splitlines()
        assert lines_of(image) == sorted(expected)
        check_clean(image, tmp_path)


def test_a_layer_goes_onto_a_file_system_of_the_reference(vectors: Path, tmp_path: Path) -> None:
    base = vectors / "stack" / "L0.zstd.obd"
    image = new_image(tmp_path, 1 << 30, lowers=(str(base),))
    apply_tar(image, str(vectors / "layer1.tar"))
    expected = (vectors / "trees" / "stack-raw.2.txt").read_text().splitlines()
    assert lines_of(image) == sorted(expected)


def test_a_sparse_upper_gives_the_same_tree(vectors: Path, tmp_path: Path) -> None:
    image = new_image(tmp_path, sparse=True)
    apply_tar(image, str(vectors / "layer0.tar"), mkfs=True)
    expected = (vectors / "trees" / "stack-raw.1.txt").read_text().splitlines()
    assert lines_of(image) == sorted(expected)


@pytest.mark.host
def test_the_kernel_sees_the_same_tree(vectors: Path, tmp_path: Path) -> None:
    image = new_image(tmp_path)
    apply_tar(image, str(vectors / "layer0.tar"), mkfs=True)
    disk, mount = export(image, tmp_path / "disk"), tmp_path / "mount"
    mount.mkdir()
    subprocess.run(["mount", "-o", "loop,ro", str(disk), str(mount)], check=True)
    try:
        found = [str(p.relative_to(mount)) for p in mount.rglob("*")]
        many = {p.name for p in (mount / "opt" / "many").iterdir()}
        # a name in a hash tree, looked up by the kernel
        assert all((mount / "opt" / "many" / name).read_bytes() for name in sorted(many)[::50])
        assert os.getxattr(mount / "opt" / "xattr", "user.color") == b"blue"
        status = os.lstat(mount / "dev" / "null")
        assert (os.major(status.st_rdev), os.minor(status.st_rdev)) == (1, 3)
    finally:
        subprocess.run(["umount", str(mount)], check=True)
    assert set(found) - {"lost+found"} == set(tree_of(image))


def test_compressed_tars_from_files_fifos_and_stdin_are_the_same(tmp_path: Path) -> None:
    plain = Path(write_tar(tmp_path / "a.tar", directory("d"), member("d/f", b"x" * 70001)))
    raw = plain.read_bytes()
    inputs = {
        "a.tar.gz": gzip.compress(raw[:5000]) + gzip.compress(raw[5000:]),  # two members
        "a.tar.zst": zstandard.compress(raw),
    }
    for name, data in inputs.items():
        (tmp_path / name).write_bytes(data)
    os.mkfifo(tmp_path / "fifo")
    writer = threading.Thread(target=lambda: (tmp_path / "fifo").write_bytes(raw))
    writer.start()
    trees = []
    for name in ("fifo", "a.tar", *inputs):
        folder = tmp_path / f"image.{name}"
        folder.mkdir()
        image = new_image(folder)
        done = apply_tar(image, str(tmp_path / name), mkfs=True, with_sha256=True)
        assert done.sha256 == hashlib.sha256(raw).hexdigest()
        trees.append((lines_of(image), (folder / "upper.data").read_bytes()[4096:]))
    writer.join()
    assert all(one == trees[0] for one in trees)  # to the byte: a function of the tar alone


def test_every_kind_of_entry_arrives_as_it_was(tmp_path: Path) -> None:
    long_name = "/".join(["n" * 200] * 4)
    xattrs = {"SCHILY.xattr.user.a": "1", "SCHILY.xattr.security.b": "2" * 300}
    image = new_image(tmp_path)
    tar = write_tar(
        tmp_path / "a.tar",
        directory("./"),
        directory("d", mode=0o1777, uid=70000, gid=3_000_000_000),
        member("d/setuid", b"abc", mode=0o4755, uid=100_000, pax={"mtime": "1234567890.5"}),
        member(long_name, b"deep"),
        member("ünï/中文", "ü".encode()),
        symlink("short", "d/setuid"),
        symlink("long", "t" * 300),
        member("null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3),
        member("big", kind=tarfile.BLKTYPE, devmajor=259, devminor=70000),
        member("fifo", kind=tarfile.FIFOTYPE),
        member("attributes", b"x", pax=xattrs),
        member("foreign", b"x", pax={"SCHILY.xattr.com.example.c": "3"}),
        member("future", pax={"mtime": "5000000000"}),
        member("past", pax={"mtime": "-1000"}),
    )
    done = apply_tar(image, tar, mkfs=True)
    assert done.xattrs_skipped == 1
    found = tree_of(image)
    assert stat.S_IMODE(found["d"].mode) == 0o1777
    assert (found["d"].uid, found["d"].gid) == (70000, 3_000_000_000)
    assert found["d/setuid"].mode == stat.S_IFREG | 0o4755
    assert (found["d/setuid"].mtime_s, found["d/setuid"].mtime_ns) == (1234567890, 500_000_000)
    assert content(image, long_name) == b"deep"
    assert content(image, "ünï/中文") == "ü".encode()
    assert content(image, "short") == b"abc"
    assert found["long"].target == b"t" * 300
    assert found["null"].device == (1, 3)
    assert found["big"].device == (259, 70000)
    assert stat.S_ISFIFO(found["fifo"].mode)
    assert found["attributes"].xattrs == {"user.a": b"1", "security.b": b"2" * 300}
    assert found["foreign"].xattrs == {}
    assert (found["future"].mtime_s, found["past"].mtime_s) == (5_000_000_000, -1000)
    assert found["ünï"].mtime_s == 0  # made for what is in it
    check_clean(image, tmp_path)


def test_sparse_files_keep_their_holes(tmp_path: Path) -> None:
    source = tmp_path / "sparse"
    with source.open("wb") as file:
        file.truncate(20 << 20)
        for at, data in ((5000, b"one"), (1 << 20, b"two" * 5000), ((20 << 20) - 3, b"end")):
            file.seek(at)
            file.write(data)
    for kind in ("gnu", "posix"):
        folder = tmp_path / kind
        folder.mkdir()
        tar = folder / "a.tar"
        command = ["tar", f"--format={kind}", "-S", "-C", str(tmp_path), "-cf", str(tar), "sparse"]
        subprocess.run(command, check=True)
        image = new_image(folder)
        apply_tar(image, str(tar), mkfs=True)
        assert content(image, "sparse") == source.read_bytes()
        assert (folder / "upper.data").stat().st_size < 2 << 20
        check_clean(image, folder)


def test_whiteouts_take_what_was_below_and_nothing_of_the_same_tar(tmp_path: Path) -> None:
    image = new_image(tmp_path)
    names = ("keep", "gone", "d/old", "d/sub/old", "d/both/old", "e/f/g")
    first = write_tar(tmp_path / "1.tar", *(member(name, b"1") for name in names))
    apply_tar(image, first, mkfs=True)
    second = write_tar(
        tmp_path / "2.tar",
        member(".wh.gone"),
        member(".wh.never-there"),
        member("no/such/dir/.wh.x"),
        member("d/both/new", b"2"),
        member("d/new", b"2"),
        member("d/.wh..wh..opq"),  # behind what it must not take
        member("mine", b"2"),
        member(".wh.mine"),
        member(".wh.e"),
        member(".wh..wh.plnk", kind=tarfile.DIRTYPE),
    )
    done = apply_tar(image, second)
    assert sorted(tree_of(image)) == ["d", "d/both", "d/both/new", "d/new", "keep", "mine"]
    assert done.removed == 5
    check_clean(image, tmp_path)


def test_an_entry_replaces_what_has_its_name(tmp_path: Path) -> None:
    image = new_image(tmp_path)
    first = write_tar(
        tmp_path / "1.tar",
        directory("d", mode=0o700, pax={"SCHILY.xattr.user.old": "1"}),
        member("d/inside", b"1"),
        member("was-dir/deep/er", b"1"),
        member("was-file", b"1"),
        member("linked", b"shared"),
        hard_link("other", "linked"),
        symlink("was-link", "d"),
    )
    apply_tar(image, first, mkfs=True)
    second = write_tar(
        tmp_path / "2.tar",
        directory("d", mode=0o755),
        member("was-dir", b"2"),
        directory("was-file"),
        member("was-file/new", b"2"),
        member("linked", b"2"),
        directory("was-link"),
    )
    apply_tar(image, second)
    found = tree_of(image)
    assert stat.S_IMODE(found["d"].mode) == 0o755
    assert found["d"].xattrs == {}
    assert "d/inside" in found
    assert content(image, "was-dir") == b"2"
    assert found["was-link"].is_directory
    assert content(image, "other") == b"shared"
    assert found["other"].link_cnt == 1
    assert found["was-file"].is_directory
    check_clean(image, tmp_path)


def test_symlinks_on_the_way_lead_inside_the_image_only(tmp_path: Path) -> None:
    image = new_image(tmp_path)
    tar = write_tar(
        tmp_path / "a.tar",
        directory("usr/lib"),
        symlink("lib", "usr/lib"),
        symlink("absolute", "/usr/lib"),
        symlink("escape", "../../../../usr"),
        symlink("dangling", "made/here"),
        member("lib/a", b"a"),
        member("/absolute/b", b"b"),
        member("escape/lib/c", b"c"),
        member("dangling/d", b"d"),
        hard_link("lib/e", "absolute/a"),
    )
    apply_tar(image, tar, mkfs=True)
    found = tree_of(image)
    assert {f"usr/lib/{name}" for name in "abce"} | {"made/here/d"} <= set(found)
    assert found["usr/lib/e"].ino == found["usr/lib/a"].ino
    check_clean(image, tmp_path)


def test_a_hard_link_sets_the_attributes_of_its_file(tmp_path: Path) -> None:
    image = new_image(tmp_path)
    apply_tar(image, write_tar(tmp_path / "1.tar", member("f", b"f", mode=0o4755)), mkfs=True)
    links = (hard_link("g", "f", mode=0o600), hard_link("g", "g", mode=0o640))
    apply_tar(image, write_tar(tmp_path / "2.tar", *links))
    found = tree_of(image)
    assert found["f"].ino == found["g"].ino
    assert (found["f"].mode, found["f"].link_cnt) == (stat.S_IFREG | 0o640, 2)
    check_clean(image, tmp_path)


REFUSED = {
    "dots": (member("a/../../b"), r"'a/\.\./\.\./b'.*could lead out"),
    "link to dots": (hard_link("a", "../f"), r"'a'.*could lead out.*'\.\./f'"),
    "below a file": (member("f/a"), "'f/a'.*below something that is no directory"),
    "link to nothing": (hard_link("a", "nothing"), "'a'.*not there: 'nothing'"),
    "link to a directory": (hard_link("a", "d"), "'a'.*hard link to a directory: 'd'"),
    "loop": (member("loop/a"), "'loop/a'.*40 symlinks"),
    "long name": (member("x" * 256), "longer than 255"),
    "whiteout without a name": (member("d/.wh."), "without a name"),
    "root that is a file": (member("."), "root of the image must be a directory"),
    "xattr too large": (member("a", pax={"SCHILY.xattr.user.a": "v" * 5000}), "do not fit"),
    "owner": (member("a", pax={"uid": str(1 << 33)}), "beyond 32 bits"),
    "time": (member("a", pax={"mtime": str(1 << 40)}), "beyond what ext4 can hold"),
    "empty symlink": (symlink("a", ""), "'a'.*"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_meant_is_refused_and_nothing_changes(name: str, tmp_path: Path) -> None:
    image = new_image(tmp_path)
    first = (member("f", b"1"), directory("d"), directory("e"), symlink("loop", "loop"))
    apply_tar(image, write_tar(tmp_path / "1.tar", *first), mkfs=True)
    before = lines_of(image)
    bad, message = REFUSED[name]
    tar = write_tar(tmp_path / "2.tar", member("new", b"2" * 9000), member(".wh.e"), bad)
    with pytest.raises(FormatError, match=message):
        apply_tar(image, tar)
    assert lines_of(image) == before
    check_clean(image, tmp_path)
    apply_tar(image, write_tar(tmp_path / "3.tar", member("f", b"3")))
    assert content(image, "f") == b"3"


def test_damaged_input_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    image = new_image(tmp_path)
    tar = Path(write_tar(tmp_path / "1.tar", member("f", os.urandom(100_000))))
    apply_tar(image, str(tar), mkfs=True)
    before = lines_of(image)
    packed = gzip.compress(tar.read_bytes())
    inputs = {
        "cut.tar": tar.read_bytes()[:50_000],
        "cut.tar.gz": packed[: len(packed) // 2],
        "flipped.tar.gz": packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:],
        "text": b"no tar at all\n" * 100,
        "empty": b"",
    }
    for name, data in inputs.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FormatError, match=name):
            apply_tar(image, str(tmp_path / name))
        assert lines_of(image) == before


def test_another_checksum_is_refused(tmp_path: Path) -> None:
    image = new_image(tmp_path)
    tar = write_tar(tmp_path / "1.tar", member("f", b"1"))
    digest = hashlib.sha256(Path(tar).read_bytes()).hexdigest()
    apply_tar(image, tar, mkfs=True, expected_sha256=f"sha256:{digest}")
    with pytest.raises(FormatError, match="sha256 of the uncompressed tar"):
        apply_tar(image, tar, expected_sha256="0" * 64)
    with pytest.raises(ConfigError, match="64 hex digits"):
        apply_tar(image, tar, expected_sha256="abc")


def test_an_image_that_is_full_says_so_and_stays_as_it_was(tmp_path: Path) -> None:
    image = new_image(tmp_path, 8 << 20)
    apply_tar(image, write_tar(tmp_path / "1.tar", member("f", b"1")), mkfs=True)
    before = lines_of(image)
    with pytest.raises(NativeError, match="file system in the image is full"):
        apply_tar(image, write_tar(tmp_path / "2.tar", member("g", bytes(9 << 20))))
    many = (member(f"{i}", b"") for i in range(2000))
    with pytest.raises(NativeError, match="no inode left"):
        apply_tar(image, write_tar(tmp_path / "3.tar", *many))
    assert lines_of(image) == before
    check_clean(image, tmp_path)


def test_an_upper_in_use_is_refused_by_name(tmp_path: Path) -> None:
    image = new_image(tmp_path)
    make_file_system(image)
    assert image.upper is not None
    tar = write_tar(tmp_path / "1.tar", member("f", b"1"))
    with open(image.upper[1], "r+b") as held:  # as a worker that writes to the pair
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
        fcntl.fcntl(held, fcntl.F_OFD_SETLK, lock)
        with pytest.raises(AlreadyServed, match=r"upper\.data: in use"):
            apply_tar(image, tar)
    apply_tar(image, tar)


def test_without_upper_or_file_system_the_error_says_what_to_do(tmp_path: Path) -> None:
    image = new_image(tmp_path)
    tar = write_tar(tmp_path / "1.tar", member("f", b"1"))
    with pytest.raises(FormatError, match="no ext4 file system"):
        apply_tar(image, tar)
    without = config.ImageConfig("c.json", (config.Lower("x"),), None)
    with pytest.raises(ConfigError, match="no upper"):
        apply_tar(without, tar)
    with pytest.raises(ConfigError, match="can not be read"):
        apply_tar(image, str(tmp_path / "missing"))


def test_directories_grow_into_hash_trees_and_back(tmp_path: Path) -> None:
    image = new_image(tmp_path, 512 << 20)
    names = [f"d/{'n' * 90}-{i}" for i in range(3000)]
    plain = tarfile.USTAR_FORMAT
    tar = write_tar(tmp_path / "1.tar", *(member(n) for n in names), format_=plain)
    apply_tar(image, tar, mkfs=True)
    check_clean(image, tmp_path)
    assert len(tree_of(image)) == len(names) + 1
    gone = (member(f"d/.wh.{name[2:]}") for name in names[10:])
    apply_tar(image, write_tar(tmp_path / "2.tar", *gone, format_=plain))
    assert sorted(tree_of(image)) == sorted(["d", *names[:10]])
    check_clean(image, tmp_path)


def test_ctrl_c_leaves_the_file_system_as_it_was(tmp_path: Path) -> None:
    image = new_image(tmp_path)
    apply_tar(image, write_tar(tmp_path / "1.tar", member("f", b"1")), mkfs=True)
    before = lines_of(image)
    reading, writing = os.pipe()
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        member("g", bytes(1 << 20))(tar)
    os.set_blocking(writing, False)
    os.write(writing, raw.getvalue()[:4096])

    def stop(done: int, total: int) -> None:
        """Once the first bytes are in: no more come until the call was told to stop."""
        if done and not stopped:
            stopped.append(done)
            os.close(writing)
            raise KeyboardInterrupt

    stopped: list[int] = []
    saved = os.dup(0)
    os.dup2(reading, 0)
    try:
        with pytest.raises(KeyboardInterrupt):
            apply_tar(image, "-", report=stop)
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(reading)
    assert lines_of(image) == before
    check_clean(image, tmp_path)


def test_an_unfinished_file_system_is_not_written_to(tmp_path: Path) -> None:
    image = new_image(tmp_path)
    make_file_system(image)
    assert image.upper is not None
    with closing(UpperWriter(*image.upper)) as upper:
        block = bytearray(_first_block(image))
        block[1024 + 0x3A] &= ~1  # s_state: as a commit that was cut leaves it
        upper.write(0, bytes(block))
    with pytest.raises(FormatError, match="left unfinished"):
        apply_tar(image, write_tar(tmp_path / "1.tar", member("f", b"1")))


@pytest.mark.parametrize("at", [0x14, 0x20, 0x24, 0x28])  # first block; per group: blocks, inodes
def test_damaged_group_sizes_are_refused(at: int, tmp_path: Path) -> None:
    image = new_image(tmp_path)
    make_file_system(image)
    assert image.upper is not None
    with closing(UpperWriter(*image.upper)) as upper:
        block = bytearray(_first_block(image))
        block[1024 + at] ^= 8
        upper.write(0, bytes(block))
    with pytest.raises(FormatError, match="sound ext4"):
        apply_tar(image, write_tar(tmp_path / "1.tar", member("f", b"1")))


def test_erofs_is_named(tmp_path: Path) -> None:
    image = new_image(tmp_path)
    assert image.upper is not None
    with closing(UpperWriter(*image.upper)) as upper:
        upper.write(0, bytes(1024) + bytes.fromhex("e2e1f5e0") + bytes(4096 - 1028))
    with pytest.raises(FormatError, match="an erofs, which is not read here"):
        lines_of(image)


def _first_block(image: config.ImageConfig) -> bytes:
    with Image(image) as opened:
        return opened.read(0, 4096)
