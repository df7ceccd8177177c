"""S3 as people have it: keys decide nothing, and what is wrong with a server or its settings is one line within seconds."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from inranker_flow.artifacts import manifest
from inranker_flow.errors import UserError
from inranker_flow.execution import artifact_transfer
from inranker_flow.preflight import stores
from inranker_flow.storage import s3_client, uris
from inranker_flow.store import stage_results
from tests.http_server import Answer, HttpServer
from tests.refusals import refuses
from tests.servers import nobody

PASSWORD = "s3cret-of-anna"


class Bucket(HttpServer):
    """An S3 server with one bucket, in memory, that lets every key and every answer be said by a test."""

    def __init__(self, keys=None, refuse=lambda request: None):
        super().__init__()
        self.keys = dict(keys or {})
        self.refuse = refuse

    def answer(self, request):
        parts = urlsplit(request.path)
        key = unquote(parts.path).removeprefix("/b").removeprefix("/")
        if refused := self.refuse(request):
            return refused
        if request.method == "GET" and "list-type" in parts.query:
            prefix = parse_qs(parts.query).get("prefix", [""])[0]
            found = "".join(
                f'<Contents><Key>{name.replace("&", "&amp;")}</Key><Size>{len(data)}</Size><ETag>"e"</ETag></Contents>'
                for name, data in self.keys.items()
                if name.startswith(prefix)
            )
            text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>"
            return Answer(200, text.encode())
        if request.method == "PUT":
            if request.headers.get("If-None-Match") and key in self.keys:
                return error(412, "PreconditionFailed")
            self.keys[key] = request.body
            return Answer(200, headers={"ETag": '"e"'})
        if request.method == "DELETE":
            self.keys.pop(key, None)
            return Answer(204)
        data = self.keys.get(key)
        if data is None:
            return error(404, "NoSuchKey")
        return Answer(200, data, {"ETag": '"e"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"})


def error(status, code, message="said the test", inside=""):
    text = f"<Error><Code>{code}</Code><Message>{message}</Message>{inside}</Error>"
    return Answer(status, text.encode(), {"Content-Type": "application/xml"})


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id-of-the-test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    for name in ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"):
        monkeypatch.setenv(name, "when_required")
    monkeypatch.setenv("INRANKER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(s3_client, "_answered", set())
    monkeypatch.setattr(s3_client, "PAUSE", 0.001)
    s3_client.client.cache_clear()
    yield
    s3_client.client.cache_clear()


@pytest.fixture
def use(monkeypatch):
    def point(address: str) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        s3_client.client.cache_clear()

    return point


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


# Keys

BAD_NAMES = [
    "../out.txt", "../../../out.txt", "a/../../out.txt", "/tmp/out.txt", "//out.txt", "a//out.txt", "./out.txt", "a/./out.txt",
    "..", "a\\..\\out.txt", "C:\\out.txt", f"{'x' * 256}.txt", "/".join(["y" * 200] * 21), "ü" * 128,
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_key_that_would_lie_elsewhere_is_refused_before_the_first_byte(name, use, tmp_path):
    keys = {"col/corpus.jsonl": b"{}\n", f"col/{name}": b"owned"}
    with Bucket(keys) as server:
        use(server.url)
        before = files(tmp_path)
        with pytest.raises(UserError, match=r"^s3://b/col: the name '.*nothing was copied") as caught:
            uris.local_copy("s3://b/col")
        assert name[:100].replace("\\", "\\\\") in str(caught.value) and "\n" not in str(caught.value)
        assert files(tmp_path) == before
        assert not [each for each in server.requests if "list-type" not in each.path], "not even asked for"


@pytest.mark.parametrize("keys", [("a", "a/b"), ("a/b", "a/b/c/d"), ("queries.jsonl/x", "queries.jsonl")])
def test_a_key_that_is_file_and_folder_is_refused(keys, use):
    with Bucket({f"col/{name}": b"x" for name in keys}) as server:
        use(server.url)
        with refuses("name-unusable"):
            uris.local_copy("s3://b/col")


def test_a_key_equal_to_the_prefix(use):
    with Bucket({"col": b"file", "col/corpus.jsonl": b"{}"}) as server:
        use(server.url)
        with refuses("name-unusable"):
            uris.local_copy("s3://b/col")
        assert files(uris.local_copy("s3://b/col/")) == ["corpus.jsonl"], "with a slash only the folder is meant"


def test_keys_of_tidy_names_are_copied(use):
    names = ["corpus.jsonl", "qrels/test.tsv", "a b/ünï.txt", "..x", "x..", "...", "-", "100%", "a:b", "~root", "$HOME"]
    with Bucket({**{f"col/{name}": name.encode() for name in names}, "col/": b"", "col/empty/": b""}) as server:
        use(server.url)
        copied = uris.local_copy("s3://b/col")
        assert {name: (copied / name).read_bytes().decode() for name in names} == {name: name for name in names}
        assert files(copied) == sorted(names)


def test_a_pointer_to_a_prefix_of_bad_keys_is_refused(use, tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / artifact_transfer.POINTER).write_text("s3://b/x\n")
    with Bucket({"x/manifest.json": b"{}", "x/../../../out.txt": b"owned"}) as server:
        use(server.url)
        with refuses("name-unusable"):
            artifact_transfer.fetch(tmp_path / "labels")


@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "a//b", "a/../b"])
def test_a_manifest_does_not_name_files_outside_of_its_folder(name, tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a").write_text("a")
    manifest.write_manifest(tmp_path / "labels", dataset="toy", stage="test")
    path = tmp_path / "labels" / manifest.FILENAME
    path.write_text(path.read_text().replace('"a":', f'"{name}":'))
    for read in (manifest.read_manifest, manifest.check):
        with refuses("name-unusable", "manifest.json"):
            read(tmp_path / "labels")


@pytest.mark.parametrize(
    "entry", [{"../out.txt": "0" * 64}, {"/tmp/out.txt": "0" * 64}, {"a": "../../secret"}, {"": "../s"}]
)
def test_a_record_of_the_store_decides_neither_where_is_written_nor_what_is_read(entry, tmp_path):
    (tmp_path / "secret").write_text("secret")
    work = stage_results.Work(str(tmp_path / "store"), "retrieve", {})
    with pytest.raises(UserError, match=r"the name |is no digest of a file"):
        work._fetch(entry, tmp_path / "out" / "put")
    assert files(tmp_path) == ["secret"]


def test_a_link_that_leads_out_of_a_folder_is_not_uploaded(use, tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "labels" / "a").write_text("a")
    (tmp_path / "labels" / "inside").symlink_to("a")
    with Bucket() as server:
        use(server.url)
        uris.upload(tmp_path / "labels", "s3://b/x")
        assert sorted(server.keys) == ["x/a", "x/inside"]
        (tmp_path / "labels" / "out").symlink_to(tmp_path / "secret")
        with refuses("folder-link", "labels/out"):
            uris.upload(tmp_path / "labels", "s3://b/y")
        assert not [key for key in server.keys if key.startswith("y")]


@pytest.mark.parametrize("uri", ["hf://o/d/../../x", "hf://o/d//etc/passwd", "hf://o/d/a/./b"])
def test_addresses_on_the_hub_are_plain(uri):
    with refuses("name-unusable"):
        uris.local_copy(uri)


# Conditional puts


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("501", r"refuses a conditional put \(HTTP 501\)"),
        ("400", r"refuses a conditional put \(HTTP 400\)"),
        ("always 412", r"refuses a conditional put \(HTTP 412\)"),
        ("ignores", "takes no notice of a conditional put"),
        ("lies", "takes no notice of a conditional put"),
        ("other status", r"answers a second conditional put with HTTP 404"),
    ],
)
def test_what_a_server_lacks_is_said_with_what_follows(kind, says, use, monkeypatch):
    seen = []

    def refuse(request):
        if not request.headers.get("If-None-Match") or request.method != "PUT":
            return None
        seen.append(request.path)
        if kind == "501":
            return error(501, "NotImplemented")
        if kind == "400":
            return error(400, "InvalidArgument")
        if kind == "always 412":
            return error(412, "PreconditionFailed")
        key = unquote(request.path).removeprefix("/b/")
        if kind == "ignores":
            server.keys[key] = request.body
            return Answer(200)
        if len(seen) > 1:
            if kind == "lies":
                server.keys[key] = request.body
            return error(412 if kind == "lies" else 404, "X")
        return None

    with Bucket(refuse=refuse) as server:
        use(server.url)
        monkeypatch.setenv("INRANKER_STORE", "s3://b/store")
        with pytest.raises(UserError, match=rf"^s3://b/store: this S3 server {says}.*INRANKER_STORE=off"):
            stores.check_store()
        assert server.keys == {}, "nothing is left there"


def test_a_server_that_does_it_passes(use, monkeypatch):
    with Bucket() as server:
        use(server.url)
        monkeypatch.setenv("INRANKER_STORE", "s3://b/store/")
        assert "conditional put work" in stores.check_store()
        assert server.keys == {}


# Servers and settings

HEADERS = {"x-amz-bucket-region": "eu-west-1"}
REFUSALS = {
    "wrong keys": (error(403, "InvalidAccessKeyId"), "correct AWS_ACCESS_KEY_ID"),
    "wrong secret": (error(403, "SignatureDoesNotMatch"), "correct AWS_ACCESS_KEY_ID"),
    "no right to list": (error(403, "AccessDenied"), "grant s3:ListBucket"),
    "no bucket": (error(404, "NoSuchBucket"), "create the bucket or correct the address"),
    "expired": (error(400, "ExpiredToken"), "renew the credentials"),
    "another clock": (error(403, "RequestTimeTooSkewed"), "by NTP"),
    "another region": (error(301, "PermanentRedirect"), "set AWS_REGION to the bucket's"),
    "region of the signature": (
        error(400, "AuthorizationHeaderMalformed", inside="<Region>eu-west-1</Region>"), "bucket's region, eu-west-1"
    ),
    "a page": (Answer(200, b"<html><body>log in</html>"), "no S3 server"),
    "garbage": (Answer(200, b"\x00\x01garbage"), "no S3 server"),
    "busy": (error(503, "SlowDown"), "answered SlowDown"),
    "bad gateway": (Answer(502, b"<html>bad"), "502"),
    "forbidden page": (Answer(403, b"<html>no</html>"), "grant s3:ListBucket"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSALS)
def test_what_a_server_answers_is_one_line_with_a_remedy(kind, use):
    answer, says = REFUSALS[kind]
    with Bucket(refuse=lambda request: answer) as server:
        use(server.url)
        with pytest.raises(UserError) as caught:
            uris.local_copy("s3://b/col")
        assert says in str(caught.value) and "\n" not in str(caught.value)
        if kind != "another region":  # botocore looks for it by itself
            assert len(server.requests) <= 2 * s3_client.FIRST_ATTEMPTS + 2, "an unknown server is not waited for"


def test_a_right_to_list_is_none_to_read(use):
    with Bucket({"col/corpus.jsonl": b"{}"}) as server:
        use(server.url)
        server.refuse = lambda request: None if "list-type" in request.path else error(403, "AccessDenied")
        for read in (uris.local_copy, stores.readable):
            with pytest.raises(UserError, match=r"(AccessDenied|403).*grant s3:GetObject on it"):
                read("s3://b/col")


@pytest.mark.parametrize("kind", ["silent", "cut", "refused"])
def test_nobody_there_is_told_at_once(kind, use, monkeypatch):
    monkeypatch.setattr(s3_client, "FIRST_TIMEOUT", 0.5)
    with nobody(kind) as url:
        use(url)
        with pytest.raises(UserError, match=r"s3://b/col: (no S3 server answers at|S3 at http://127)") as caught:
            uris.local_copy("s3://b/col")
    assert "\n" not in str(caught.value)


def test_a_server_that_has_answered_is_waited_for(use):
    with Bucket({"col": b"x"}) as server:
        use(server.url)
        first = s3_client.client()
        uris.read("s3://b/col")
        assert s3_client.client() is not first and s3_client.client().meta.config.read_timeout == s3_client.TIMEOUT
        assert first.meta.config.read_timeout == s3_client.FIRST_TIMEOUT


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"AWS_PROFILE": "nowhere"}, r"nowhere.*correct AWS_PROFILE"),
        ({"config": "[default\nregion = x"}, r"correct that file, or name another in AWS_CONFIG_FILE"),
        ({"config": "region = x\n"}, r"correct that file, or name another in AWS_CONFIG_FILE"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, r"missing: AWS_SECRET_ACCESS_KEY.*set both"),
        ({"AWS_ENDPOINT_URL": "http://anna:s3cret-of-anna@127.0.0.1:9"}, "AWS_ENDPOINT_URL holds a user or a password"),
        ({"AWS_ENDPOINT_URL": "https://s3.example?sig=s3cret-of-anna"}, "AWS_ENDPOINT_URL holds a user or a password"),
        ({"AWS_ENDPOINT_URL": "127.0.0.1:9000"}, r"AWS_ENDPOINT_URL: .*give an address such as http://HOST:PORT"),
        ({"AWS_ENDPOINT_URL": "http://"}, r"AWS_ENDPOINT_URL: .*give an address such as http://HOST:PORT"),
        ({"AWS_ENDPOINT_URL": "ftp://127.0.0.1"}, r"AWS_ENDPOINT_URL: .*give an address such as http://HOST:PORT"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:port"}, r"AWS_ENDPOINT_URL: .*give an address such as http://HOST:PORT"),
        ({"AWS_REGION": "eu central 1!"}, r"correct AWS_REGION"),
        ({"AWS_MAX_ATTEMPTS": "many"}, r"AWS_|max_attempts"),
    ],
)  # fmt: skip
def test_settings_that_make_no_client_are_told_in_one_line(variables, says, monkeypatch, tmp_path):
    for name, value in variables.items():
        if name == "config":
            (tmp_path / "config").write_text(value)
        else:
            monkeypatch.setenv(name, value)
    if "AWS_ENDPOINT_URL" not in variables:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3_client.client.cache_clear()
    with pytest.raises(UserError, match=says) as caught:
        uris.local_copy("s3://b/col")
    assert "\n" not in str(caught.value) and PASSWORD not in str(caught.value)


@pytest.mark.parametrize("name", ["AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_CA_BUNDLE", "AWS_ROLE_ARN"])
def test_an_empty_variable_is_none(name, use, monkeypatch):
    with Bucket({"col": b"x"}) as server:
        monkeypatch.setenv(name, " ")
        use(server.url)
        assert uris.read("s3://b/col") == b"x"


def test_blanks_around_a_key_are_not_sent(use, monkeypatch):
    with Bucket({"col": b"x"}) as server:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret\n")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", " id ")
        use(server.url)
        assert uris.read("s3://b/col") == b"x"
        assert "Credential=id/" in server.requests[0].headers["Authorization"]


def test_the_region_is_that_of_aws_region(use, monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    use("http://127.0.0.1:9")
    assert s3_client.client().meta.region_name == "eu-west-1"
