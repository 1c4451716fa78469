"""Files of tasks: where they come from, what is wrong in them, which of their lines are taken."""

import gzip
import hashlib
import http.server
import socket
import threading

import pytest

from eco.tasks import files, sets


class Line(files.Row):
    name: str
    number: int = 0


def rows(path):
    return [row.name for _, row in files.read_rows(path, Line)]


def complaint(tmp_path, content, name="set.jsonl"):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        rows(path)
    assert str(path) in str(error.value)
    return str(error.value).replace(str(path), "FILE")


# Reading


def test_lines_are_read_with_their_places_plain_and_gzipped(tmp_path):
    text = b'{"name": "a", "more": [1]}\n\n  \r\n{"name": "b", "number": 3}'
    (tmp_path / "set.jsonl").write_bytes(text)
    (tmp_path / "set.jsonl.gz").write_bytes(gzip.compress(text))
    for name in ("set.jsonl", "set.jsonl.gz"):
        path = tmp_path / name
        places, read = zip(*files.read_rows(path, Line), strict=True)
        assert places == (f"{path}, line 1", f"{path}, line 4")
        assert read == (Line(name="a"), Line(name="b", number=3))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b'{"number": 3}', "'name' is missing"),
        (b"{}", "'name' is missing"),
        (b'{"name": 3}', "'name': Input should be a valid string"),
        (b'{"name": "a", "number": "3"}', "'number': Input should be a valid integer"),
        (b'{"name": "a", "number": 3.5}', "'number': Input should be a valid integer"),
        (b'{"name": "a"', "not JSON"),
        (b"name", "not JSON"),
        (b'{"name": "\xff"}', "not JSON"),
        (b'{"name": "\\ud800"}', "not JSON"),
        (b"\x00", "not JSON"),
        (b'["a"]', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'"a"', "not a JSON object"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, told):
    assert complaint(tmp_path, b'{"name": "a"}\n\n' + line + b"\n").startswith(f"FILE, line 3: {told}")


def test_all_that_is_wrong_in_a_line_is_told(tmp_path):
    assert complaint(tmp_path, b'{"number": "x"}').count("'name' is missing; 'number'") == 1


def test_files_without_tasks_are_refused(tmp_path):
    assert "holds no tasks" in complaint(tmp_path, b"")
    assert "holds no tasks" in complaint(tmp_path, b"\n \n")


def test_broken_archives_are_refused(tmp_path):
    whole = gzip.compress(b'{"name": "a"}\n' * 1000)
    for content in (b"plain", whole[:-9], whole[: len(whole) // 2], whole[:20] + b"\x00\xff" * 9, b""):
        told = complaint(tmp_path, content, "set.jsonl.gz")
        assert "cannot be read" in told or (content == b"" and "holds no tasks" in told)


def test_a_path_must_be_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("none.jsonl", str(tmp_path), "a\x00b"):
        with pytest.raises(ValueError, match=r"no file .* mbpp@PATH"):
            files.locate("mbpp", path, None)
    with pytest.raises(ValueError, match="the path is empty"):
        files.locate("mbpp", "", None)
    (tmp_path / "here.jsonl").touch()
    assert files.locate("mbpp", "here.jsonl", None) == tmp_path / "here.jsonl"


# Choosing


def test_a_seed_chooses_in_the_order_of_the_file():
    items = [*range(100)]
    chosen = files.choose(items, 10, seed=3)
    assert chosen == files.choose(items, 10, seed=3) == sorted({*chosen})
    assert chosen != files.choose(items, 10, seed=4)
    assert files.choose(items, 100, 3) == files.choose(items, 1000, 3) == items


# Downloading

CONTENT = b'{"name": "a"}\n' * 9000


@pytest.fixture
def server():
    """Serves `server.content` on the loopback, announcing `server.announced` bytes; counts its requests."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.requests += 1
            self.send_response(200 if self.path == "/set.jsonl" else 404)
            self.send_header("Content-Length", str(server.announced))
            self.end_headers()
            self.wfile.write(server.content)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.content, server.announced = 0, CONTENT, len(CONTENT)
    server.handle_error = lambda *_: None  # a client that has seen enough hangs up
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def public(port, page="set.jsonl"):
    digest = hashlib.sha256(CONTENT).hexdigest()
    return files.PublicFile("set.jsonl", f"http://127.0.0.1:{port}/{page}", len(CONTENT), digest)


def refused(file, cache):
    with pytest.raises(ValueError) as error:
        files.locate("mbpp", None, file, cache)
    assert "mbpp@PATH" in str(error.value) and file.sha256 in str(error.value) and file.address in str(error.value)
    assert not [path for path in cache.rglob("*") if path.is_file()]
    return str(error.value)


def test_a_download_is_kept_and_checked_each_time(tmp_path, server):
    file = public(server.server_port)
    path = files.locate("mbpp", None, file, tmp_path)
    assert path.read_bytes() == CONTENT
    assert files.locate("mbpp", None, file, tmp_path) == path
    assert server.requests == 1
    path.write_bytes(CONTENT[:-1] + b" ")
    assert files.locate("mbpp", None, file, tmp_path).read_bytes() == CONTENT
    assert server.requests == 2
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"\n", b"x" + CONTENT[1:], CONTENT * 50])
def test_what_is_not_the_published_file_is_not_kept(tmp_path, server, content):
    server.content, server.announced = content, len(content)
    assert "is not the published set.jsonl" in refused(public(server.server_port), tmp_path)


def test_a_broken_connection_is_told(tmp_path, server):
    server.content = CONTENT[:5000]
    assert "set.jsonl" in refused(public(server.server_port), tmp_path)


def test_a_missing_page_is_told(tmp_path, server):
    assert "HTTP Error 404" in refused(public(server.server_port, "none"), tmp_path)


def test_offline_says_what_to_fetch(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but nobody listens
        told = refused(public(unused.getsockname()[1]), tmp_path)
    assert "cannot be downloaded" in told and "fetch the file by hand" in told


def test_published_sets_are_read_from_their_downloads(tmp_path, server, monkeypatch):
    from eco.tasks.sets import gsm8k

    line = b'{"question": "1 + 1?", "answer": "#### 2"}\n'
    server.content, server.announced = line, len(line)
    address = f"http://127.0.0.1:{server.server_port}/set.jsonl"
    file = files.PublicFile("own.jsonl", address, len(line), hashlib.sha256(line).hexdigest())
    monkeypatch.setitem(gsm8k._FILES, "held_out", file)
    monkeypatch.setenv("ECO_CACHE", str(tmp_path))
    assert [task.name for task in sets.open_tasks("gsm8k", "held_out", 5)] == ["GSM8K/held_out/1"]
    assert (tmp_path / "tasks" / "own.jsonl").read_bytes() == line
