"""Downloads from a server in this process: whole, wrong, cut, missing."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from snnconv.data.download import SOURCES, Source, fetch
from snnconv.data.images import DATASETS
from snnconv.errors import ConfigError, DataError

FILES = {"a.gz": b"first" * 50_000, "b.gz": b"second"}


class Server:
    """Files by name; ``cut`` are announced whole and sent by half; counts what it is asked for."""

    def __init__(self) -> None:
        self.files = dict(FILES)
        self.cut: set[str] = set()
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.lstrip("/")
                outer.asked.append(name)
                if name not in outer.files:
                    self.send_error(404)
                    return
                content = outer.files[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) // 2] if name in outer.cut else content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"

    def source(self, archive: bool = False) -> dict[str, Source]:
        hashes = {name: hashlib.md5(content).hexdigest() for name, content in self.files.items()}
        return {"made": Source(self.url, "Made/raw", hashes, archive)}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def tar(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def test_whole_files_arrive_quietly(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch("made", tmp_path / "new" / "data", server.source())
    assert tree(tmp_path) == {f"new/data/Made/raw/{name}": content for name, content in FILES.items()}
    assert capsys.readouterr() == ("", "")
    assert [path.name for path in (tmp_path / "new" / "data").iterdir()] == ["Made"]


def test_files_that_are_there_stay(server: Server, tmp_path: Path) -> None:
    (tmp_path / "Made" / "raw").mkdir(parents=True)
    (tmp_path / "Made" / "raw" / "a.gz").write_bytes(b"a copy packed otherwise")
    fetch("made", tmp_path, server.source())
    assert tree(tmp_path) == {"Made/raw/a.gz": b"a copy packed otherwise", "Made/raw/b.gz": b"second"}
    assert server.asked == ["b.gz"]


def fails(server: Server, folder: Path, sources: dict[str, Source], reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        fetch("made", folder, sources)
    text = str(caught.value)
    assert text.startswith(f"made could not be downloaded from {server.url} (")
    assert "\n" not in text
    by_hand = (
        f"into {folder / 'Made' / 'raw'} by hand, or name the folder that has them with --data-dir or $SNNCONV_DATA"
    )
    assert text.endswith(by_hand)
    assert all(name in text for name in sources["made"].files)


def test_a_wrong_hash_leaves_nothing(server: Server, tmp_path: Path) -> None:
    sources = server.source()
    server.files["a.gz"] = b"something else"
    fails(server, tmp_path, sources, "a.gz has the MD5 [0-9a-f]{32} instead of [0-9a-f]{32}")
    assert list(tmp_path.iterdir()) == []


def test_a_connection_cut_halfway_leaves_nothing_and_can_be_repeated(server: Server, tmp_path: Path) -> None:
    server.cut = {"a.gz"}
    fails(server, tmp_path, server.source(), "made could not be downloaded")
    assert list(tmp_path.iterdir()) == []
    server.cut = {"b.gz"}
    fails(server, tmp_path, server.source(), "made could not be downloaded")
    assert tree(tmp_path) == {"Made/raw/a.gz": FILES["a.gz"]}
    server.cut = set()
    fetch("made", tmp_path, server.source())
    assert len(tree(tmp_path)) == 2


def test_a_missing_file_and_a_missing_server(server: Server, tmp_path: Path) -> None:
    sources = server.source()
    del server.files["a.gz"]
    fails(server, tmp_path, sources, "404")
    with pytest.raises(DataError, match=r"made could not be downloaded from http://127\.0\.0\.1:9/"):
        fetch("made", tmp_path, {"made": Source("http://127.0.0.1:9/", "Made/raw", sources["made"].files)})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    fails(server, tmp_path / "file", server.source(), "File exists")


def test_an_archive_is_unpacked_and_removed(server: Server, tmp_path: Path) -> None:
    server.files = {"made.tar.gz": tar({"raw/one": b"1", "raw/two": b"2", "else/three": b"3"})}
    fetch("made", tmp_path, server.source(archive=True))
    assert tree(tmp_path) == {"Made/raw/one": b"1", "Made/raw/two": b"2"}


def test_an_archive_fills_up_an_incomplete_folder(server: Server, tmp_path: Path) -> None:
    (tmp_path / "Made" / "raw").mkdir(parents=True)
    (tmp_path / "Made" / "raw" / "one").write_bytes(b"mine")
    server.files = {"made.tar.gz": tar({"raw/one": b"1", "raw/two": b"2"})}
    fetch("made", tmp_path, server.source(archive=True))
    assert tree(tmp_path) == {"Made/raw/one": b"mine", "Made/raw/two": b"2"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tar({"raw/one": bytes(range(256)) * 999})[:900], "made could not be downloaded"),
        (tar({"../outside": b"1"}), "outside"),
        (tar({"else/one": b"1"}), "No such file"),
        (b"no archive", "file could not be opened"),
    ],
    ids=["cut", "outside", "elsewhere", "none"],  # packed bytes hold the time, and so would ids made of them
)
def test_a_broken_archive_leaves_nothing(server: Server, tmp_path: Path, content: bytes, reason: str) -> None:
    server.files = {"made.tar.gz": content}
    fails(server, tmp_path / "data", server.source(archive=True), reason)
    assert tree(tmp_path) == {}


def test_a_set_without_a_source(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="digits cannot be downloaded: mnist, fashion-mnist, cifar10, cifar100 can"):
        fetch("digits", tmp_path)


def test_every_set_of_files_has_a_source_that_loading_looks_into() -> None:
    assert set(SOURCES) == set(DATASETS) - {"digits"}
    for name, source in SOURCES.items():
        assert source.folder == DATASETS[name].folder
        assert source.url.endswith("/")
        assert all(len(md5) == 32 for md5 in source.files.values())
