"""Tests of copying files into and out of running sandboxes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import pickle
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from callers import MAP_OF_SEVERAL, as_root, several_ids
from conftest import settled_descriptors
from processes import capture

import usernsctl as un

FOREVER = ["sleep", "1000"]
# Modification time of the copied files, in ns. Copies must keep the fraction of a second.
WHEN = 1_600_000_000_123_456_789
HOSTILE_NAMES = [
    b"line\nfeed",
    b"\xff\xfe not UTF-8",
    b"-rf",
    b"...",
    b"sp ace\t'\"$(x)",
    b"\x1b[31m",
    b"n" * 255,
]


@pytest.fixture
def inside(box: un.Sandbox) -> Iterator[str]:
    """Yield the path of a new directory in the sandbox."""
    path = box.check_output(["mktemp", "-d"], text=True).strip()
    yield path
    box.run(["rm", "-rf", path], check=True)


def shell(box: un.Sandbox, script: str, *args: str, **options: Any) -> str:
    return str(box.check_output(["sh", "-c", script, "sh", *args], text=True, **options))


def tree_of(top: Path) -> dict[bytes, tuple[Any, ...]]:
    """Return a dict that maps each path in a tree to the file's mode, mtime and content."""
    found: dict[bytes, tuple[Any, ...]] = {}
    for directory, names, files in os.walk(os.fsencode(top)):
        for path in [directory, *(os.path.join(directory, name) for name in [*names, *files])]:
            status = os.lstat(path)
            content: Any = None
            if stat.S_ISREG(status.st_mode):
                content = Path(os.fsdecode(path)).read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            mode = 0 if stat.S_ISLNK(status.st_mode) else status.st_mode
            found[os.path.relpath(path, os.fsencode(top))] = (mode, status.st_mtime_ns, content)
    return found


def make_tree(top: Path) -> Path:
    """Create files of several sizes, modes and names, links and an empty directory in `top`."""
    top.mkdir()
    (top / "deep" / "er").mkdir(parents=True)
    (top / "empty").mkdir(mode=0o700)
    (top / "nothing").touch()
    (top / "large").write_bytes(os.urandom(1 << 20) + b"end")
    (top / "program").write_text("#!/bin/sh\n")
    (top / "program").chmod(0o755)
    (top / "deep" / "secret").write_text("secret")
    (top / "deep" / "secret").chmod(0o600)
    (top / "deep" / "up").symlink_to("../program")
    (top / "dangling").symlink_to("nowhere")
    for number, name in enumerate(HOSTILE_NAMES):
        with open(os.path.join(os.fsencode(top), name), "wb") as file:
            file.write(b"%d" % number)
    for directory, names, files in os.walk(os.fsencode(top), topdown=False):
        for name in [*names, *files, b"."]:
            path = os.path.join(directory, name)
            os.utime(path, ns=(WHEN, WHEN), follow_symlinks=False)
    return top


# Tests of read_file(), write_file() and list_dir().


@pytest.mark.parametrize("size", [0, 1, 65536, (1 << 20) + 7])
def test_read_file_returns_written_content(box: un.Sandbox, inside: str, size: int) -> None:
    data = os.urandom(size)
    path = f"{inside}/file"
    box.write_file(path, data)
    assert box.read_file(path) == data
    assert shell(box, 'stat -c "%a %u %g %s" "$1"', path) == f"644 0 0 {size}\n"


def test_write_file_replaces_content_and_sets_the_mode(box: un.Sandbox, inside: str) -> None:
    path = f"{inside}/new/dir/file"
    with pytest.raises(FileNotFoundError):
        box.write_file(path, b"x")
    box.write_file(path, b"a long content", 0o600, parents=True)
    box.write_file(path, bytearray(b"short"), mode=0o755)
    assert shell(box, 'stat -c %a "$1"; cat "$1"', path) == "755\nshort"


def test_write_file_keeps_the_content_if_a_buffer_is_not_contiguous(
    box: un.Sandbox, inside: str
) -> None:
    box.write_file(f"{inside}/file", b"content")
    with pytest.raises(TypeError, match="contiguous"):
        box.write_file(f"{inside}/file", memoryview(b"replaced")[::2])
    assert box.read_file(f"{inside}/file") == b"content"


def test_write_file_accepts_a_file_object(box: un.Sandbox, inside: str) -> None:
    data = os.urandom(600_000)
    box.write_file(f"{inside}/file", io.BytesIO(data))
    assert box.read_file(os.fsencode(f"{inside}/file")) == data


def test_symlinks_and_proc_files_are_read(box: un.Sandbox, inside: str) -> None:
    box.write_file(f"{inside}/file", b"content")
    shell(box, 'ln -s file "$1/link"; ln -s /proc/version "$1/version"', inside)
    assert box.read_file(f"{inside}/link") == b"content"
    assert b"PST 2016" in box.read_file(f"{inside}/version")
    box.write_file(f"{inside}/link", b"new")
    assert box.read_file(f"{inside}/file") == b"new"


def failure(side: str, number: int, path: str, call: Callable[[], object]) -> un.SandboxFileError:
    """Check step, errno and path of the SandboxFileError that `call` raises; return the error."""
    with pytest.raises(un.SandboxFileError) as caught:
        call()
    error = caught.value
    assert (error.step, error.errno, error.filename) == (side, number, path)
    assert str(error).startswith(f"{side}: ")
    assert "\n" not in str(error)
    return error


@pytest.mark.parametrize(
    ("path", "number", "kind"),
    [
        ("/nowhere/at/all", errno.ENOENT, FileNotFoundError),
        ("/tmp", errno.EISDIR, IsADirectoryError),
        ("/proc/version/x", errno.ENOTDIR, NotADirectoryError),
        ("/dev/zero", errno.EINVAL, OSError),
        ("/dev/null", errno.EINVAL, OSError),
        ("/proc/self/mem", errno.EIO, OSError),
        ("/" + "x" * 256, errno.ENAMETOOLONG, OSError),
    ],
)
def test_unreadable_paths_raise(
    box: un.Sandbox, path: str, number: int, kind: type[OSError]
) -> None:
    error = failure("inside", number, path, lambda: box.read_file(path, timeout=20))
    assert isinstance(error, kind)


def test_fifos_sockets_and_devices_are_refused_without_blocking(
    box: un.Sandbox, inside: str
) -> None:
    shell(box, 'mkfifo "$1/fifo"', inside)
    code = "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])"
    box.run(["/usr/bin/python3", "-c", code, f"{inside}/socket"], check=True)
    for path in (f"{inside}/fifo", f"{inside}/socket", "/dev/zero", "/dev/full"):
        failure("inside", errno.EINVAL, path, lambda path=path: box.read_file(path))
    for path in (f"{inside}/fifo", f"{inside}/socket"):
        with pytest.raises(un.SandboxFileError) as caught:
            box.write_file(path, b"x")
        assert caught.value.errno in (errno.ENXIO, errno.EINVAL)
        assert "regular file" in str(caught.value)


def test_read_file_raises_above_max_bytes(box: un.Sandbox, inside: str) -> None:
    path = f"{inside}/file"
    box.write_file(path, b"12345")
    assert box.read_file(path, max_bytes=5) == b"12345"
    error = failure("inside", errno.EFBIG, path, lambda: box.read_file(path, max_bytes=4))
    assert error.remedy == "pass a larger max_bytes"
    assert isinstance(error, un.SandboxFileTooLargeError)
    # Extend the file to 1 TiB without data. read_file() must reject it before it transfers data.
    shell(box, 'truncate -s 1T "$1"', path)
    failure("inside", errno.EFBIG, path, lambda: box.read_file(path))


def test_invalid_arguments_raise(box: un.Sandbox) -> None:
    wrong: Any
    for wrong, kind, name in [
        ("relative", ValueError, "path"),
        ("", ValueError, "path"),
        ("/a\0b", ValueError, "path"),
        (None, TypeError, "path"),
        ("/" + "a/" * 100_000, ValueError, "path"),
    ]:
        for call in (
            box.read_file,
            box.list_dir,
            lambda path: box.write_file(path, b""),
            lambda path: box.put("/etc/hostname", path),
            lambda path: box.get(path, "/nowhere"),
        ):
            with pytest.raises(kind, match=name):
                call(wrong)
    text: Any = "text"
    with pytest.raises(TypeError, match="data must be bytes"):
        box.write_file("/tmp/x", text)
    with pytest.raises(ValueError, match="mode"):
        box.write_file("/tmp/x", b"", 0o4755)
    with pytest.raises(ValueError, match="max_bytes"):
        box.read_file("/tmp/x", max_bytes=-1)
    unknown: Any = {"tmeout": 1}
    with pytest.raises(TypeError, match="tmeout"):
        box.read_file("/tmp/x", **unknown)
    with pytest.raises(ValueError, match="path is /"):
        box.put("/etc/hostname", "/")


def test_list_dir_returns_type_size_mode_and_target(box: un.Sandbox, inside: str) -> None:
    box.write_file(f"{inside}/file", b"12345", 0o640)
    shell(box, 'cd "$1"; mkdir dir; ln -s x link; mkfifo fifo; touch -d @1600000000 file', inside)
    found = {entry.name: entry for entry in box.list_dir(inside)}
    assert {name: entry.type for name, entry in found.items()} == {
        "file": "file",
        "dir": "directory",
        "link": "symlink",
        "fifo": "fifo",
    }
    assert (found["link"].target, found["link"].size) == ("x", 1)
    assert found["file"] == un.FileEntry("file", "file", 5, 0o640, 1600000000.0)
    assert {"zero"} <= {one.name for one in box.list_dir("/dev") if "character" in one.type}
    failure("inside", errno.ENOTDIR, f"{inside}/file", lambda: box.list_dir(f"{inside}/file"))
    failure("inside", errno.EFBIG, inside, lambda: box.list_dir(inside, max_entries=3))
    assert len(box.list_dir(inside, max_entries=4)) == 4


# Tests of put() and get().


def test_put_and_get_keep_a_tree_unchanged(box: un.Sandbox, inside: str, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    report = box.put(tree, f"{inside}/tree")
    again = box.get(f"{inside}/tree", tmp_path / "back")
    assert report == again
    assert (report.files, report.directories, report.links) == (4 + len(HOSTILE_NAMES), 4, 2)
    assert (report.skipped_count, report.changed_count) == (0, 0)
    assert tree_of(tmp_path / "back") == tree_of(tree)
    assert {os.fsencode(entry.name) for entry in box.list_dir(f"{inside}/tree")} == {
        name for name in tree_of(tree) if b"/" not in name and name != b"."
    }


@pytest.mark.parametrize("time", [-1, -500_000_000_250_000_000, 1, 2**33 * 10**9 + 1])
def test_times_of_files_are_kept(box: un.Sandbox, inside: str, tmp_path: Path, time: int) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").touch()
    os.utime(tree / "file", ns=(time, time))
    box.put(tree, f"{inside}/tree")
    assert [entry.mtime for entry in box.list_dir(f"{inside}/tree")] == [time / 1e9]
    box.get(f"{inside}/tree", tmp_path / "out")
    assert (tmp_path / "out" / "file").stat().st_mtime_ns == time


def test_put_and_get_copy_a_single_file(box: un.Sandbox, inside: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    os.utime(file, ns=(WHEN, WHEN))
    file.chmod(0o750)
    assert box.put(file, f"{inside}/made/file", parents=True).files == 1
    assert box.get(f"{inside}/made/file", tmp_path / "back").bytes == 7
    assert tree_of(tmp_path / "back") == tree_of(file)
    # Check that put() follows a symbolic link, and copies the link's target.
    (tmp_path / "link").symlink_to("file")
    box.put(tmp_path / "link", f"{inside}/link")
    assert shell(box, 'stat -c %F "$1"', f"{inside}/link") == "regular file\n"


def test_existing_files_are_replaced_only_with_merge(
    box: un.Sandbox, inside: str, tmp_path: Path
) -> None:
    tree = make_tree(tmp_path / "tree")
    box.put(tree, f"{inside}/tree")
    shell(box, 'cd "$1"; echo own >own; echo other >program; rm dangling', f"{inside}/tree")
    for source in (tree, tree / "program"):
        path = f"{inside}/tree"
        error = failure("inside", errno.EEXIST, path, lambda s=source, p=path: box.put(s, p))
        assert isinstance(error, FileExistsError)
        assert "merge" in str(error.remedy)
    before = tree_of(tree)
    error = failure("outside", errno.EEXIST, str(tree), lambda: box.get(f"{inside}/tree", tree))
    assert tree_of(tree) == before
    box.put(tree, f"{inside}/tree", merge=True)
    assert shell(box, 'cd "$1"; cat own program', f"{inside}/tree") == "own\n#!/bin/sh\n"
    # Check that `merge` does not replace a directory with a file, nor a file with a directory.
    path = f"{inside}/tree/deep"
    with pytest.raises(un.SandboxFileError):
        box.put(tree / "program", path, merge=True)
    path = f"{inside}/tree/program"
    with pytest.raises(NotADirectoryError):
        box.put(tree / "deep", path, merge=True)


def test_merge_follows_no_symlink_inside(box: un.Sandbox, inside: str, tmp_path: Path) -> None:
    (tmp_path / "tree" / "dir").mkdir(parents=True)
    (tmp_path / "tree" / "dir" / "file").write_text("new")
    (tmp_path / "tree" / "link").write_text("new")
    script = 'cd "$1"; mkdir tree other; ln -s ../other tree/dir; ln -s ../other/file tree/link'
    shell(box, script, inside)
    with pytest.raises(NotADirectoryError):
        box.put(tmp_path / "tree", f"{inside}/tree", merge=True)
    shell(box, 'rm "$1/tree/dir"', inside)
    box.put(tmp_path / "tree", f"{inside}/tree", merge=True)
    assert shell(box, 'cd "$1"; cat tree/link; ls other', inside) == "new"
    # Check that `merge` keeps the mode of an existing directory.
    shell(box, 'chmod 1777 "$1/tree"', inside)
    box.put(tmp_path / "tree", f"{inside}/tree", merge=True)
    assert shell(box, 'stat -c %a "$1/tree"', inside) == "1777\n"


def test_special_files_are_skipped_and_reported(
    box: un.Sandbox, inside: str, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    os.mkfifo(tree / "fifo")
    (tree / "file").write_text("x")
    report = box.put(tree, f"{inside}/tree")
    assert (report.files, report.skipped, report.skipped_count) == (1, (("fifo", "a FIFO"),), 1)
    shell(box, 'cd "$1/tree"; mkfifo p; ln -s / out; ln -s ../x up; chmod 6755 file', inside)
    report = box.get(f"{inside}/tree", tmp_path / "back")
    assert dict(report.skipped) == {
        "p": "a FIFO",
        "out": "a symbolic link that leads out of the tree",
        "up": "a symbolic link that leads out of the tree",
    }
    assert os.listdir(tmp_path / "back") == ["file"]
    assert (tmp_path / "back" / "file").stat().st_mode == stat.S_IFREG | 0o755


def test_get_creates_no_devices(box: un.Sandbox, tmp_path: Path) -> None:
    report = box.get("/dev", tmp_path / "dev")
    assert report.skipped_count > 5
    assert {why for _, why in report.skipped} <= {
        "a device",
        "a symbolic link that leads out of the tree",
    }
    for top, names, files in os.walk(tmp_path / "dev"):
        assert all(os.path.islink(os.path.join(top, name)) for name in files), (names, files)


def test_get_above_its_limits_leaves_no_file(box: un.Sandbox, inside: str, tmp_path: Path) -> None:
    box.put(make_tree(tmp_path / "tree"), f"{inside}/tree")
    tree = tree_of(tmp_path / "tree")
    size = sum(len(content or b"") for mode, _, content in tree.values() if stat.S_ISREG(mode))
    count = len(tree)
    back = tmp_path / "back"
    for limits in ({"max_bytes": size - 1}, {"max_files": count - 1}, {"max_files": 0}):
        with pytest.raises(un.SandboxFileError, match=next(iter(limits))):
            box.get(f"{inside}/tree", back, **limits)
        assert not back.exists()
    assert box.get(f"{inside}/tree", back, max_bytes=size, max_files=count).files


def test_sparse_files_count_with_their_size(box: un.Sandbox, inside: str, tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with open(sparse, "wb") as file:
        file.truncate(8 << 20)
    box.put(sparse, f"{inside}/sparse")
    box.get(f"{inside}/sparse", tmp_path / "back")
    assert (tmp_path / "back").stat().st_size == 8 << 20
    shell(box, 'truncate -s 1T "$1/huge"', inside)
    path = f"{inside}/huge"
    failure("inside", errno.EFBIG, path, lambda: box.get(path, tmp_path / "huge"))
    assert not (tmp_path / "huge").exists()


@pytest.mark.parametrize("levels", [255, 256, 300])
def test_trees_deeper_than_256_directories_are_refused(
    box: un.Sandbox, inside: str, tmp_path: Path, levels: int
) -> None:
    # Create one directory less below `tree`, which is itself one of the `levels`.
    tree = tmp_path / "tree"
    tree.mkdir()
    with contextlib.chdir(tree):
        for _ in range(levels - 1):
            os.mkdir("d")
            os.chdir("d")
        Path("end").touch()
    code = (
        "import os, sys; os.chdir(sys.argv[1]); os.mkdir('deep'); os.chdir('deep')\n"
        "for i in range(int(sys.argv[2]) - 1): os.mkdir('d'); os.chdir('d')\n"
        "open('end', 'w').close()"
    )
    box.run(["/usr/bin/python3", "-c", code, inside, str(levels)], check=True)
    if levels <= 256:
        assert box.put(tree, f"{inside}/tree").directories == levels
        assert box.get(f"{inside}/deep", tmp_path / "back").directories == levels
        return
    for call in (
        lambda: box.put(tree, f"{inside}/tree"),
        lambda: box.get(f"{inside}/deep", tmp_path / "back"),
    ):
        with pytest.raises(un.SandboxFileError) as caught:
            call()
        assert caught.value.errno == errno.ENAMETOOLONG
    assert not (tmp_path / "back").exists()


def test_errors_outside_name_the_path(box: un.Sandbox, inside: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    for call in (
        lambda: box.put(missing, f"{inside}/x"),
        lambda: box.get("/etc", f"{missing}/etc"),
    ):
        with pytest.raises(FileNotFoundError) as caught:
            call()
        assert isinstance(caught.value, un.SandboxFileError)
        assert (caught.value.step, missing in str(caught.value.filename)) == ("outside", True)
    os.mkfifo(tmp_path / "fifo")
    path = str(tmp_path / "fifo")
    failure("outside", errno.EINVAL, path, lambda: box.put(path, f"{inside}/x"))
    tree = make_tree(tmp_path / "tree")
    if os.getuid():
        (tree / "deep" / "secret").chmod(0)
        path = str(tree / "deep" / "secret")
        error = failure("outside", errno.EACCES, path, lambda: box.put(tree, f"{inside}/t"))
        assert isinstance(error, PermissionError)
        assert pickle.loads(pickle.dumps(error)).step == "outside"


def test_absolute_paths_are_valid_in_a_removed_current_directory(
    box: un.Sandbox, inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").write_bytes(b"content")
    (tmp_path / "removed").mkdir()
    monkeypatch.chdir(tmp_path / "removed")
    (tmp_path / "removed").rmdir()
    box.put(tmp_path / "source", f"{inside}/file")
    box.get(f"{inside}/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"content"


def test_errors_inside_name_the_path(host: un.SandboxHost, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    with un.SandboxHost(rlimits=["fsize=65536"]) as limited, limited.start(None) as box:
        with pytest.raises(un.SandboxFileError) as caught:
            box.write_file("/tmp/file", b"x" * 100_000)
        assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, "/tmp/file")
        assert box.list_dir("/tmp") == []
        with pytest.raises(un.SandboxFileError) as caught:
            box.put(tmp_path, "/tmp/tree")
        assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, "/tmp/tree/file")


@pytest.mark.parametrize("name", ["file", "directory"])
def test_errors_in_a_nested_directory_name_the_path(
    box: un.Sandbox, inside: str, tmp_path: Path, name: str
) -> None:
    path = f"{inside}/a/b/c/{name}"
    shell(box, 'mkdir -p "$1/a/b/c/directory"; : >"$1/a/b/c/file"; chmod 0 "$2"', inside, path)
    failure("inside", errno.EACCES, path, lambda: box.get(f"{inside}/a", tmp_path / "out"))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Yield the mount point of a filesystem with a size of one MiB."""
    made = tmp_path / "small"
    made.mkdir()
    capture(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0777", "none", str(made)], check=True)
    yield made
    capture(["umount", str(made)], check=True)


@as_root
def test_a_full_filesystem_raises_enospc(small: Path, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"x" * (2 << 20))
    with un.SandboxHost(binds=[f"{small}:/data:rw"]) as host, host.start(None) as box:
        for call in (
            lambda: box.write_file("/data/file", large.read_bytes()),
            lambda: box.put(large, "/data/file"),
        ):
            error = failure("inside", errno.ENOSPC, "/data/file", call)
            assert error.remedy
            box.run(["rm", "-f", "/data/file"], check=True)
        box.write_file("/tmp/large", large.read_bytes())
        path = str(small / "copy")
        failure("outside", errno.ENOSPC, path, lambda: box.get("/tmp/large", path))
        assert os.listdir(small) == []


def test_files_that_change_during_a_copy_are_reported(
    box: un.Sandbox, inside: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    with open(source, "wb") as file:
        file.truncate(64 << 20)
    stop = threading.Event()

    def touch() -> None:
        while not stop.wait(0.001):
            os.utime(source)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        report = box.put(source, f"{inside}/file")
    finally:
        stop.set()
        thread.join()
    assert (report.changed, report.changed_count, report.bytes) == (("",), 1, 64 << 20)
    script = 'echo; while :; do touch "$1"; done'
    command = ["sh", "-c", script, "sh", f"{inside}/file"]
    with box.popen(command, stdout=un.PIPE) as process:
        assert process.stdout.readline() == b"\n"
        report = box.get(inside, tmp_path / "back")
        process.kill_tree()
    assert (report.changed, report.changed_count) == (("file",), 1)


@several_ids
def test_files_get_the_owner_given_by_name(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    passwd = b"root:x:0:0::/root:/bin/sh\napp:x:5:6::/app:/bin/sh\n"

    async def write(box: un.Sandbox) -> None:
        await box.write_file_async("/tmp/async", b"x", user="app:team")
        assert await box.read_file_async("/tmp/async", user="app") == b"x"

    with un.SandboxHost(MAP_OF_SEVERAL, writable_root=True) as host, host.start(None) as box:
        box.write_file("/etc/passwd", passwd)
        box.write_file("/etc/group", b"team:x:7:\n")
        box.write_file("/tmp/mine", b"x", user="app")
        box.put(tmp_path / "tree", "/tmp/tree", user="5:team")
        asyncio.run(write(box))
        show = ["stat", "-c", "%u %g", "/tmp/mine", "/tmp/tree", "/tmp/async"]
        assert box.check_output(show, text=True) == "5 6\n5 7\n5 7\n"
        assert box.read_file("/tmp/mine", user="app") == b"x"
        box.write_file("/tmp/secret", b"x", 0o600)
        with pytest.raises(PermissionError):
            box.read_file("/tmp/secret", user="app")
        with pytest.raises(un.CommandError) as caught:
            box.read_file("/tmp/mine", user="nobody-here")
        assert caught.value.cause == "user-unknown"
        # A program in the sandbox may replace /etc/passwd with a FIFO. Then the lookup of the user
        # must fail without waiting for a writer.
        box.run(["sh", "-c", "rm /etc/passwd; mkfifo /etc/passwd"], check=True)
        with pytest.raises(un.CommandError) as caught:
            box.write_file("/tmp/mine", b"y", user="app", timeout=30)
        assert caught.value.cause == "user-unknown"
        with pytest.raises(ValueError, match="user: 'a:b:c' is not"):
            box.write_file("/tmp/mine", b"y", user="a:b:c")


@several_ids
def test_files_get_owner_and_permissions_of_the_given_user(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("x")
    with un.SandboxHost(MAP_OF_SEVERAL) as host, host.start(None) as box:
        box.write_file("/tmp/mine", b"x", user=(5, 6))
        box.put(tmp_path / "tree", "/tmp/tree", user=(5, 6))
        show = ["stat", "-c", "%u %g", "/tmp/mine", "/tmp/tree", "/tmp/tree/file"]
        assert box.check_output(show, text=True) == "5 6\n" * 3
        box.write_file("/tmp/secret", b"x", 0o600)
        for call in (
            lambda: box.read_file("/tmp/secret", user=(5, 6)),
            lambda: box.write_file("/tmp/secret", b"", user=(5, 6)),
            lambda: box.write_file("/new", b"", user=(5, 6)),
            lambda: box.put(tmp_path / "tree", "/new", user=(5, 6)),
            lambda: box.get("/tmp/secret", tmp_path / "secret", user=(5, 6)),
        ):
            with pytest.raises(PermissionError) as caught:
                call()
            assert isinstance(caught.value, un.SandboxFileError)
            assert caught.value.step == "inside"
        assert not (tmp_path / "secret").exists()


# Tests of copying with other kinds of sandboxes.


def exercise(box: un.Sandbox, tmp_path: Path, directory: str = "/tmp") -> None:
    """Copy files into and out of a sandbox with each method for copying."""
    tree = make_tree(tmp_path / "tree")
    box.write_file(f"{directory}/x", b"content")
    assert box.read_file(f"{directory}/x") == b"content"
    assert "x" in {entry.name for entry in box.list_dir(directory)}
    box.put(tree, f"{directory}/tree")
    box.get(f"{directory}/tree", tmp_path / "back")
    assert tree_of(tmp_path / "back") == tree_of(tree)


def test_copies_work_beside_a_first_command(host: un.SandboxHost, tmp_path: Path) -> None:
    with host.start(FOREVER) as box:
        exercise(box, tmp_path)


def test_copies_work_in_a_detached_sandbox(
    host: un.SandboxHost, tmp_path: Path, runtime: Path
) -> None:
    box = host.start(FOREVER, detach=True)
    box.release()
    with un.Sandbox.attach(box.id) as again:
        exercise(again, tmp_path)


def test_copies_work_in_a_restored_sandbox(host: un.SandboxHost, tmp_path: Path) -> None:
    with host.template() as template, template.start() as box:
        exercise(box, tmp_path)


def test_copies_work_in_a_sandbox_of_a_pool(
    host: un.SandboxHost, tmp_path: Path, runtime: Path
) -> None:
    with host.pool(1, max_uses=2) as pool:
        with pool.acquire(60) as box:
            exercise(box, tmp_path)
        with pool.acquire(60) as box:
            box.write_file("/tmp/again", b"x")


def test_copies_work_in_a_root_filesystem_without_programs(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for name in ("dev", "proc", "sys", "tmp"):
        (root / name).mkdir()
    with un.SandboxHost(rootfs=str(root)) as host, host.start(None) as box:
        exercise(box, tmp_path)


def test_read_file_in_an_ended_sandbox_raises(host: un.SandboxHost) -> None:
    with host.start(None) as box:
        box.read_file("/proc/version")
        box.kill()
        box.wait()
        with pytest.raises(un.CommandError, match="has ended"):
            box.read_file("/proc/version")


# Tests of copying with deadlines, threads and asyncio.


def test_timeout_ends_a_copy(box: un.Sandbox, inside: str, tmp_path: Path) -> None:
    class Endless:
        def read(self, size: int) -> bytes:
            return b"x" * 1000

    path = f"{inside}/file"
    call = lambda: box.write_file(path, Endless(), timeout=0.5)  # noqa: E731
    assert isinstance(failure("inside", errno.ETIMEDOUT, path, call), TimeoutError)
    for path in ("/proc/version", inside):
        with pytest.raises(TimeoutError):
            box.get(path, tmp_path / "x", timeout=0.0001)
    assert not (tmp_path / "x").exists()
    assert box.read_file("/proc/version", timeout=None)


def test_an_exception_of_the_source_reaches_the_caller(box: un.Sandbox, inside: str) -> None:
    class Broken:
        def read(self, size: int) -> bytes:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        box.write_file(f"{inside}/file", Broken())
    assert box.list_dir(inside) == []


@pytest.mark.thorough
def test_six_threads_copy_at_once(box: un.Sandbox, inside: str) -> None:
    def work(number: int) -> None:
        data = os.urandom(100_000)
        for _ in range(5):
            box.write_file(f"{inside}/{number}", data)
            assert box.read_file(f"{inside}/{number}") == data

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))


def test_asyncio_methods_copy_files(box: un.Sandbox, inside: str, tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")

    async def work() -> None:
        await box.write_file_async(f"{inside}/x", b"content")
        assert await box.read_file_async(f"{inside}/x") == b"content"
        assert [entry.name for entry in await box.list_dir_async(inside)] == ["x"]
        await box.put_async(tree, f"{inside}/tree")
        await box.get_async(f"{inside}/tree", tmp_path / "back")
        with pytest.raises(FileNotFoundError):
            await box.read_file_async(f"{inside}/missing")

    asyncio.run(work())
    assert tree_of(tmp_path / "back") == tree_of(tree)


def test_a_cancelled_copy_leaks_nothing(box: un.Sandbox, inside: str, tmp_path: Path) -> None:
    shell(box, 'truncate -s 100G "$1/huge"', inside)
    box.read_file("/proc/version")
    before = settled_descriptors()

    async def work() -> None:
        copy = box.get_async(f"{inside}/huge", tmp_path / "huge", max_bytes=1 << 40)
        task = asyncio.create_task(copy)
        while not (tmp_path / "huge").exists() or not (tmp_path / "huge").stat().st_size:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not (tmp_path / "huge").exists()

    asyncio.run(work())
    assert settled_descriptors() == before


def test_failures_leak_no_descriptors(box: un.Sandbox, inside: str, tmp_path: Path) -> None:
    box.put(make_tree(tmp_path / "tree"), f"{inside}/tree")
    before = settled_descriptors()
    for _ in range(3):
        with pytest.raises(un.SandboxFileError):
            box.get(f"{inside}/tree", tmp_path / "back", max_bytes=100_000)
        with pytest.raises(un.SandboxFileError):
            box.get(f"{inside}/tree", tmp_path)
        with pytest.raises(un.SandboxFileError):
            box.put(tmp_path / "tree", f"{inside}/tree")
        with pytest.raises(un.SandboxFileError):
            box.read_file(inside)
    assert settled_descriptors() == before


def test_copies_use_bounded_memory(box: un.Sandbox, inside: str, tmp_path: Path) -> None:
    import tracemalloc

    source = tmp_path / "source"
    with open(source, "wb") as file:
        file.truncate(64 << 20)
    box.read_file("/proc/version")
    tracemalloc.start()
    try:
        box.put(source, f"{inside}/file")
        box.get(f"{inside}/file", tmp_path / "back")
        with open(source, "rb") as file:
            box.write_file(f"{inside}/file", file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20
