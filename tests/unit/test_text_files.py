"""Texts that people write: encodings are read or told, and nothing that is no text is waited for."""

from __future__ import annotations

import os

import pytest

from inranker_flow import profiles, text_files
from inranker_flow.corpora.folders import WISHES, Folder, read_wishes
from inranker_flow.errors import UserError
from inranker_flow.generation import prompts
from inranker_flow.rankers import templates
from inranker_flow.storage.listing import FileInfo
from tests.refusals import refuses

TEXT = "Frage: Was weiß man über 文書?\nzweite Zeile\n"
ENCODINGS = {
    "utf-8": b"",
    "utf-8-sig": b"",
    "utf-16": b"",
    "utf-16-le": b"\xff\xfe",
    "utf-16-be": b"\xfe\xff",
    "utf-32": b"",
}


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_text_is_the_same_in_whatever_unicode_an_editor_wrote_it(encoding, ends, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(ENCODINGS[encoding] + TEXT.replace("\n", ends).encode(encoding))
    assert text_files.read(path) == TEXT


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("größer\n".encode("latin-1"), "not UTF-8: byte 0xf6 in line 1"),
        ("\n\nprix: 5€\n".encode("cp1252"), "not UTF-8: byte 0x80 in line 3"),
        ("質問\n".encode("shift-jis"), "not UTF-8"),
        ("plain\n".encode("utf-16-le"), "holds NUL bytes"),
        (b"a\0b", "holds NUL bytes"),
        (b"\xff\xfea", "though it begins as UTF-16"),
        (b"\x7fELF\x02\x01\x01\0\0", "holds NUL bytes"),
        (b"\x89PNG\r\n\x1a\n", "not UTF-8: byte 0x89 in line 1"),
        (b"x" * (text_files.MOST + 1), "has 131,073 bytes"),
    ],
)
def test_what_is_no_text_is_one_line_that_names_file_and_reason(data, said, tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        text_files.read(path, "generation.prompt")
    assert str(caught.value).startswith(f"generation.prompt: {path}: ") and said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_a_pipe_and_a_loop_of_links_are_told_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret").chmod(0)
    for name, said in {
        "folder": "is a folder",
        "pipe": "is a pipe or a device",
        "loop": "symbolic links",
        "x" * 300: "too long",
    }.items():
        with pytest.raises(UserError, match=said):
            text_files.read(tmp_path / name)
    with refuses("text-file"):
        text_files.read("/dev/zero")  # without an end
    if os.geteuid():
        with pytest.raises(UserError, match="Permission denied"):
            text_files.read(tmp_path / "secret")
    for missing in (tmp_path / "none", tmp_path / "secret" / "below", "a\0b", "~nobody-of-this-name/x"):
        with pytest.raises(FileNotFoundError):
            text_files.read(missing)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_prompts_templates_profiles_and_wishes_are_read_with_their_mark(encoding, tmp_path):
    def written(name: str, text: str) -> str:
        (tmp_path / name).write_bytes(text.encode(encoding))
        return str(tmp_path / name)

    prompt = prompts.load(written("p.txt", "---\nsystem: You write queries.\nstop: [X]\n---\nAbout {document}:\n"))
    assert (prompt.chat, prompt.system, prompt.stop, prompt.text) == (
        True,
        "You write queries.",
        ("X",),
        "About {document}:",
    )
    plain = (templates.FOLDER / "qwen3-reranker.txt").read_text(encoding="utf-8")
    assert templates.load(written("t.txt", plain), "i") == templates.load("qwen3-reranker", "i")
    smoke = (profiles.PROFILES / "smoke.yaml").read_text(encoding="utf-8")
    assert profiles.load(written("mine.yaml", smoke)) == profiles.load("smoke")
    wishes = written(WISHES, "licence: Größe\n")
    here = Folder("corpus", str(tmp_path), [FileInfo(wishes, 1, "")])
    assert read_wishes(here).licence == "Größe"


def test_a_corpus_yaml_in_latin_1_is_one_line(tmp_path):
    (tmp_path / WISHES).write_bytes("licence: Größe\n".encode("latin-1"))
    with pytest.raises(UserError, match=rf"{WISHES}: not UTF-8: byte 0xf6 in line 1"):
        read_wishes(Folder("corpus", str(tmp_path), [FileInfo(f"{tmp_path}/{WISHES}", 1, "")]))


_BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 12)
)
_MERGES = "a0: &a0 {k: 1}\n" + "".join(
    f"a{level}: &a{level} {{<<: [*a{level - 1}, *a{level - 1}]}}\n" for level in range(1, 60)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "the key a is there twice in line 3"),
        ("s: {x: 1, 'x': 1}", "the key x is there twice"),
        ("s: &a [1, *a]", "an alias (*NAME) stands inside of what it names"),
        ("s: &a {b: {c: *a}}", "an alias (*NAME) stands inside of what it names"),
        (_BOMB, "more than 50,000 values"),
        (_MERGES, "too many keys are merged"),
        ("[" * 1_500, "nested too deeply"),
        ("{a: " * 1_000, "nested too deeply"),
        ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("a: !mine 1", "could not determine a constructor"),
        ("a: " + "9" * 5_000, "a value that cannot be read"),
        ("a: 2026-13-45", "a value that cannot be read"),
        ("a: !!bool maybe", "a value that cannot be read"),
        ("a: !!timestamp soon", "a value that cannot be read"),
        ("a: b\n\tc: d", "cannot start any token"),
        ("a: *nowhere", "undefined alias"),
        ("a: 1\n---\na: 2", "but found another document"),
        ("a: [1", "not valid YAML"),
        ("a: \x07", "special characters are not allowed"),
        ("? {a: 1}\n: 2", "unhashable key"),
    ],
)
def test_yaml_that_is_none_or_too_much_is_one_line(text, said):
    with pytest.raises(UserError) as caught:
        text_files.parse_yaml(text, "mine.yaml")
    assert str(caught.value).startswith("mine.yaml: ") and said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 600


def test_aliases_and_merges_are_plain_values():
    text = "one: &one {a: 1, b: 2}\ntwo: {<<: *one, b: 3}\nthree: *one\nfour: &four {<<: *one}\nfive: {<<: [*four, *one], a: 5}\n"
    found = text_files.parse_yaml(text, "x")
    assert found["two"] == {"a": 1, "b": 3} and found["three"] == found["one"] and found["five"] == {"a": 5, "b": 2}
    assert text_files.parse_yaml("", "x") is None


def test_a_message_shows_a_value_on_one_line_and_without_passwords():
    assert text_files.quoted("a\nb") == r"'a\nb'" and text_files.shown("/a/b c.yaml") == "/a/b c.yaml"
    assert text_files.shown("a\x1b[31m") == r"'a\x1b[31m'" and text_files.shown(" ") == "' '"
    assert len(text_files.quoted("x" * 10**6)) < 100 and len(text_files.quoted(["x" * 10**6])) < 200
    assert "digits" not in text_files.quoted(5) and "too long to show" in text_files.quoted([10**5_000])
    for value in ("http://anna:s3cret@host/v1", ["s3://k:s3cret@b"], {"a": "http://u:s3/cret@h"}):
        assert "s3cret" not in text_files.quoted(value) and "s3cret" not in text_files.shown(value)
