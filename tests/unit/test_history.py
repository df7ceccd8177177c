"""The history: what serves is what the log says, whoever writes, however often, and wherever it is killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inranker_flow.errors import UserError
from inranker_flow.model_registry import history, registry, stored_files
from inranker_flow.model_registry.history import Entry, State, replay
from inranker_flow.tracking import connection
from tests import forked
from tests.promoting import evaluation, previous, promote, reasons, student, use, use_database
from tests.refusals import refuses
from tests.stack import postgresql

# --- the pure part ----------------------------------------------------------------------------------------------------


def _barred(state: State) -> set[str]:
    """Return the numbers of what a person took out of service."""
    return {place.version for place, _ in state.out}


def _entry(number: int, after: int, source: str, target: str, kind: str = "PROMOTE") -> Entry:
    return Entry(number, after, kind, source, target, "me", "because", number)


def test_of_two_entries_after_the_same_one_the_first_counts():
    first, one, other = _entry(1, 0, "", "1"), _entry(2, 1, "1", "2"), _entry(3, 1, "1", "3")
    for entries in ([first, one, other], [other, one, first]):
        state = replay(entries)
        assert (state.serving, state.number, state.before, set(state.lost)) == ("2", 2, ("1",), {3})
    assert replay([first, one, other, _entry(4, 2, "2", "4")]).serving == "4", "the lost entry is in nobody's way"


def test_each_rollback_goes_further_back_and_a_promotion_starts_anew():
    entries = [_entry(1, 0, "", "1"), _entry(2, 1, "1", "2"), _entry(3, 2, "2", "3")]
    entries.append(_entry(4, 3, "3", "2", "ROLLBACK"))
    assert (replay(entries).serving, replay(entries).before) == ("2", ("1",))
    entries.append(_entry(5, 4, "2", "1", "ROLLBACK"))
    assert (replay(entries).serving, replay(entries).before) == ("1", ())
    assert _barred(replay(entries)) == {"3", "2"}
    entries.append(_entry(6, 5, "1", "3", "MANUAL"))
    state = replay(entries)
    assert (state.serving, state.before, _barred(state)) == ("3", ("1",), {"2", "1"})


def test_a_rollback_past_others_leaves_them_behind():
    entries = [_entry(1, 0, "", "1"), _entry(2, 1, "1", "2"), _entry(3, 2, "2", "3"), _entry(4, 3, "3", "4")]
    entries.append(_entry(5, 4, "4", "2", "ROLLBACK"))
    assert (replay(entries).serving, replay(entries).before) == ("2", ("1",))


@given(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from("1234"), st.sampled_from(["PROMOTE", "MANUAL", "ROLLBACK"])))
)
def test_every_log_has_one_meaning(rows):
    """Whatever is written, by however many writers that saw whatever: a chain of entries counts, and the rest is lost."""
    entries = [_entry(number, after, "?", target, kind) for number, (after, target, kind) in enumerate(rows, 1)]
    state = replay(entries)
    chain, number = [], 0
    for entry in entries:
        if entry.after == number:
            chain.append(entry)
            number = entry.number
    assert state.serving == (chain[-1].target if chain else "")
    assert set(state.lost) == {each.number for each in entries} - {each.number for each in chain}
    assert state.serving not in _barred(state), "what serves is never barred"
    for cut in range(len(entries)):
        assert set(replay(entries[:cut]).lost) <= set(state.lost), "what was lost stays lost"


# --- the registry -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    folder = tmp_path_factory.mktemp("students")
    return [student(folder / str(seed), seed) for seed in range(3)]


@pytest.fixture
def database(tmp_path, monkeypatch):
    import mlflow

    for name in ("MLFLOW_TRACKING_URI", "INRANKER_ARTIFACT_ROOT"):
        monkeypatch.setenv(name, "")  # put back at the end
    folder = tmp_path / "mlflow"
    use_database(folder)
    yield folder
    mlflow.set_tracking_uri(None)


def _versions(name: str, count: int) -> list[registry.Version]:
    """Versions without files: the history looks at none."""
    client = connection.client()
    client.create_registered_model(name)
    made = [client.create_model_version(name, f"s3://nowhere/{number}") for number in range(count)]
    return [registry.Version(name, str(each.version), {}) for each in made]


def _log(name: str) -> list[tuple[str, str, str]]:
    return [(each.kind, each.source, each.target) for each in history.read(name)]


def test_changes_are_recorded_with_who_when_and_why(database):
    one, two, *_ = _versions("m", 2)
    assert history.move(one, "PROMOTE", "run 1", "first", {"digest": "aa"}, expected="")
    assert history.move(two, "MANUAL", "ann", "a\nwhim " * 500, {})
    assert history.move(two, "MANUAL", "ann", "again", {}), "what serves already is a success"
    first, second = history.read("m")
    assert (first.kind, first.source, first.target, first.who, first.why) == ("PROMOTE", "", "1", "run 1", "first")
    assert first.details == {"digest": "aa"} and first.applied and second.applied
    assert second.why.startswith("a whim a whim") and len(second.why) == 1000
    assert first.when <= second.when and second.when > 1_700_000_000_000
    assert registry.champion("m").version == "2"
    assert (
        connection.client()
        .get_model_version("zz-m-history", "2")
        .description.startswith("MANUAL: version 1 -> 2, by ann")
    )


def test_a_promotion_against_what_no_longer_serves_changes_nothing(database):
    one, two, three = _versions("m", 3)
    history.move(one, "PROMOTE", "me", "w", {}, expected="")
    history.move(two, "PROMOTE", "me", "w", {}, expected="1")
    assert not history.move(three, "PROMOTE", "me", "w", {}, expected="1")
    assert registry.champion("m").version == "2" and len(_log("m")) == 2


def test_an_alias_that_was_moved_elsewhere_is_recorded_and_accepted(database):
    one, two, three = _versions("m", 3)
    registry.set_alias(one, registry.CHAMPION)  # before there was a history
    history.move(two, "PROMOTE", "me", "w", {}, expected="1")
    registry.set_alias(one, registry.CHAMPION)  # in MLflow's UI
    assert not history.move(three, "PROMOTE", "me", "w", {}, expected="2")
    assert registry.champion("m").version == "1", "a person's choice is not undone"
    connection.client().delete_registered_model_alias("m", "champion")
    assert history.settle("m").serving == ""
    assert previous("m")[1] == "1", "what served last, also where nothing serves"
    connection.client().delete_model_version("m", "1")
    assert previous("m")[1] == "2", "what is gone is skipped"
    assert _log("m") == [("FOUND", "", "1"), ("PROMOTE", "1", "2"), ("FOUND", "2", "1"), ("FOUND", "1", "")]
    assert "2" in _barred(history.settle("m"))


def test_what_was_interrupted_is_finished_by_the_next_one(database):
    one, _, three = _versions("m", 3)
    history.move(one, "PROMOTE", "me", "w", {}, expected="")
    history._append("m", history.settle("m"), "PROMOTE", "2", "me", "w", {})  # and killed
    assert registry.champion("m").version == "1"
    assert not history.move(three, "PROMOTE", "me", "w", {}, expected="1")
    assert registry.champion("m").version == "2" and history.read("m")[-1].applied


def test_a_writer_that_was_asleep_puts_right_what_it_overwrote(database, monkeypatch):
    """It appends its entry and sleeps; another finishes that for it and goes further; then it wakes and writes."""
    one, two, three = _versions("m", 3)
    history.move(one, "PROMOTE", "me", "w", {}, expected="")
    real, asleep = registry.set_alias, []

    def set_alias(version, alias):
        if version.version == "2" and not asleep:
            asleep.append(True)
            assert history.move(three, "PROMOTE", "other", "w", {}, expected="2")
        real(version, alias)

    monkeypatch.setattr(registry, "set_alias", set_alias)
    assert history.move(two, "PROMOTE", "me", "w", {}, expected="1")
    assert asleep and registry.champion("m").version == "3"
    assert _log("m") == [("PROMOTE", "", "1"), ("PROMOTE", "1", "2"), ("PROMOTE", "2", "3")]


def test_a_version_that_a_person_took_out_is_not_promoted_again_by_the_gate(database, students, tmp_path):
    better = evaluation(tmp_path / "e2", bm25=0.2, phase2=0.7, champion=0.6)
    promote("m", students[0], evaluation(tmp_path / "e1", bm25=0.2, phase2=0.6), "", "k1")
    assert promote("m", students[1], better, "models:/m/1", "k2").verdict == "PROMOTE"
    state, before = previous("m")
    assert history.move(registry.version("m", before), "ROLLBACK", "ann", "slow on phones", {}, state.serving)
    again = promote("m", students[1], better, "models:/m/1", "k2")
    assert (again.verdict, again.version) == ("HOLD", "2") and registry.champion("m").version == "1"
    assert reasons(better)[0]["code"] == "taken_out"
    assert "ann took it out of service (slow on phones)" in reasons(better)[0]["message"]
    assert history.move(registry.version("m", "2"), "MANUAL", "ann", "phones are faster now", {})
    assert promote("m", students[1], better, "models:/m/1", "k2").verdict == "PROMOTE", "a person brought it back"


def _champion_gone(name: str, how: str) -> None:
    """Take away the champion, version 2, which replaced version 1; as people do it in MLflow's UI."""
    client = connection.client()
    if how == "alias":
        client.delete_registered_model_alias(name, "champion")
    elif how == "version":
        client.delete_model_version(name, "2")
    elif how == "all versions":
        client.delete_model_version(name, "1")
        client.delete_model_version(name, "2")
    else:
        client.delete_registered_model(name)


@pytest.mark.parametrize(
    ("how", "told"), [("alias", ""), ("version", ""), ("version", "models:/m/2"), ("all versions", ""), ("model", "")]
)
def test_a_champion_that_is_gone_is_not_no_champion(database, students, tmp_path, caplog, how, told):
    """Whatever is measured against BM25 alone, or was measured against what is gone now: it is held."""
    one, two = _versions("m", 2)
    history.move(one, "PROMOTE", "me", "w", {}, expected="")
    history.move(two, "PROMOTE", "me", "w", {}, expected="1")
    _champion_gone("m", how)
    assert history.opponent("m", "k") == "" and "champion_gone" in caplog.text, "the log says it early"
    measured = evaluation(tmp_path / "e", bm25=0.2, phase2=0.9, **({"champion": 0.3} if told else {}))
    stats = promote("m", students[0], measured, told, "k")
    assert stats.verdict == "HOLD" and registry.champion("m") is None
    assert registry.challenger("m").tags["inranker.verdict"] == "HOLD"
    reason = reasons(measured)[0]
    assert reason["code"] == "champion_gone" and "make promote VERSION=" in reason["message"]
    assert "goes on serving" not in measured.with_name("e.html").read_text()
    again = promote("m", students[0], measured, told, "k")
    assert again.verdict == "HOLD" and again.version == stats.version, "and again, until a person decides"
    assert history.move(registry.version("m", stats.version), "MANUAL", "ann", "the only one", {})
    assert history.opponent("m", "other") == f"models:/m/{stats.version}"
    better = evaluation(tmp_path / "e2", bm25=0.2, phase2=0.95, champion=0.9)
    assert promote("m", students[1], better, f"models:/m/{stats.version}", "k2").verdict == "PROMOTE"


def _move(version: registry.Version, kind: str = "PROMOTE") -> None:
    assert history.move(version, kind, "me", "w", {"digest": version.tags.get(registry.DIGEST, "")})


def _made(name: str, *digests: str) -> list[registry.Version]:
    """Versions with these digests in their tags."""
    client = connection.client()
    with contextlib.suppress(Exception):
        client.create_registered_model(name)
    made = [client.create_model_version(name, "s3://nowhere/x", tags={registry.DIGEST: each}) for each in digests]
    return [registry.Version(name, str(each.version), dict(each.tags)) for each in made]


def test_a_rollback_skips_what_is_gone_and_goes_further_back_from_there(database):
    versions = _made("m", "a", "b", "c", "d")
    for each in versions:
        _move(each)
    client = connection.client()
    client.delete_model_version("m", "3")
    way = history.leads_back("m", history.settle("m"))
    assert [version.version if version else why for version, why in way] == ["version 3 is gone", "2", "1"]
    _move(versions[1], "ROLLBACK")
    assert history.settle("m").before == ("1",), "what was skipped is not gone back to"
    client.delete_model_version("m", "1")
    with pytest.raises(
        UserError, match=r"m: no champion before version 2 is left: version 1 is gone; choose .* VERSION=N"
    ):
        previous("m")
    client.delete_model_version("m", "2")
    with pytest.raises(UserError, match="no champion of this name is left: version 2 is gone; version 1 is gone"):
        previous("m")
    assert history.settle("m").serving == ""


def test_a_model_that_was_made_anew_is_not_the_one_of_its_number(database):
    for each in _made("m", "a", "b", "c"):
        _move(each)
    connection.client().delete_registered_model("m")
    new = _made("m", "x", "b", "z")
    assert "version 3 is another model now" in history.gone("m")
    registry.set_alias(new[2], registry.CHAMPION)  # in MLflow's UI: the number that serves is what it was
    assert history.settle("m").now == history.Place("3", "z")
    assert history.read("m")[-1].why.startswith("version 3 is another model now")
    state, before = previous("m")
    assert before == "2", "the same weights under the same number: registered again from the same student"
    assert [why for _, why in history.leads_back("m", state)] == [
        "version 3 is another model now", "", "version 1 is another model now"
    ]  # fmt: skip
    assert not state.taken_out(new[2]) and state.taken_out(registry.Version("m", "3", {registry.DIGEST: "c"}))
    _move(new[0])
    assert history.settle("m").serving == "1"


def test_a_change_to_a_version_that_was_deleted_meanwhile_is_in_nobodys_way(database):
    one, _, three = _made("m", "a", "b", "c")
    _move(one)
    history._append("m", history.settle("m"), "PROMOTE", "2", "me", "w", {"digest": "b"})  # and killed
    connection.client().delete_model_version("m", "2")
    assert history.settle("m").serving == "1"
    assert history.read("m")[-1].why == "version 2 is gone, so this serves instead"
    assert history.move(three, "PROMOTE", "me", "w", {}, expected="1") and registry.champion("m").version == "3"
    assert previous("m")[1] == "1"


def test_a_rollback_does_not_lead_to_what_serves(database):
    one, two = _made("m", "a", "b")
    for each in (one, two):
        _move(each)
    connection.client().delete_registered_model_alias("m", "champion")
    history.settle("m")
    _move(two, "MANUAL")
    assert previous("m")[1] == "1"


def test_with_nothing_before_there_is_nothing_to_go_back_to(database):
    with refuses("history-nowhere"):
        previous("nobody")
    [one] = _versions("m", 1)
    history.move(one, "PROMOTE", "me", "w", {}, expected="")
    with pytest.raises(UserError, match="m: no champion before version 1 is known"):
        previous("m")


# --- two at once ------------------------------------------------------------------------------------------------------


#: Seconds for what takes less than one, on a machine that is busy with other things.
LONG = 280


def _race(uri: str, folder: str, version: str, rounds: int, barrier, results) -> None:
    """Move to ``version`` against the champion of the moment, ``rounds`` times, always together with the other one: both
    have seen the same log before either writes."""
    use(uri, Path(folder))
    real = history._append

    def append(*args, **options):
        barrier.wait(LONG)
        return real(*args, **options)

    history._append = append  # in this process, which does nothing else
    won = []
    for number in range(rounds):
        won.append(history.move(registry.Version(f"m{number}", version, {}), "PROMOTE", version, "w", {}, expected="1"))
    results.put((version, won))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
def test_of_two_changes_at_once_exactly_one_wins_every_time(kind, database, tmp_path_factory):
    with contextlib.ExitStack() as stack:
        if kind == "postgresql":
            uri = stack.enter_context(postgresql(tmp_path_factory.mktemp("postgresql"), ()))
            use(uri, database)
        _check_races(database)


def _check_races(database: Path) -> None:
    rounds = 12
    for number in range(rounds):
        one, *_ = _versions(f"m{number}", 3)
        history.move(one, "PROMOTE", "me", "w", {}, expected="")
    barrier, results = forked.context.Barrier(2), forked.context.Queue()
    uri = os.environ["MLFLOW_TRACKING_URI"]
    both = [forked.process(_race, uri, str(database), version, rounds, barrier, results) for version in "23"]
    for each in both:
        each.start()
    won = dict(results.get(timeout=LONG) for _ in both)
    for each in both:
        each.join(LONG)
        assert each.exitcode == 0
    for number in range(rounds):
        name = f"m{number}"
        winners = [version for version in "23" if won[version][number]]
        assert len(winners) == 1, (number, won)
        assert registry.champion(name).version == winners[0]
        state = history.settle(name)
        assert state.serving == winners[0] and state.last.applied
        assert len(state.lost) == 1, "both have appended"


def _promote_together(uri: str, folder: str, args: tuple, barrier, results) -> None:
    use(uri, Path(folder))
    barrier.wait(LONG)
    results.put(promote("m", *args).verdict)


@pytest.mark.timeout(900)
def test_of_two_promotions_at_once_one_wins_and_the_other_is_held(database, students, tmp_path):
    promote("m", students[0], evaluation(tmp_path / "e0", bm25=0.2, phase2=0.6), "", "k0")
    barrier, results = forked.context.Barrier(2), forked.context.Queue()
    measured = [evaluation(tmp_path / f"e{each}", bm25=0.2, phase2=0.7, champion=0.6) for each in (1, 2)]
    both = [
        forked.process(
            _promote_together,
            os.environ["MLFLOW_TRACKING_URI"],
            str(database),
            (students[each], measured[each - 1], "models:/m/1", f"k{each}"),
            barrier,
            results,
        )
        for each in (1, 2)
    ]
    for each in both:
        each.start()
    verdicts = [results.get(timeout=LONG) for _ in both]
    for each in both:
        each.join(LONG)
    assert sorted(verdicts) == ["HOLD", "PROMOTE"]
    serving = registry.champion("m")
    assert serving.tags["inranker.verdict"] == "PROMOTE" and serving.version in ("2", "3")
    other = registry.version("m", "5".translate({ord("5"): "3" if serving.version == "2" else "2"}))
    assert other.tags["inranker.verdict"] == "HOLD" and "became champion" in other.tags["inranker.reason"]
    codes = [reasons(each)[0]["code"] for each in measured]
    assert "champion_changed" in codes


# --- killed anywhere --------------------------------------------------------------------------------------------------

_WRITES = ("create_", "set_", "delete_", "log_", "update_", "finalize_", "rename_")


class _Deadly:
    """An MlflowClient that kills this process, as a node that dies does, before its write number ``fatal``."""

    count = 0

    def __init__(self, client, fatal: int) -> None:
        self._client, self._fatal = client, fatal

    def __getattr__(self, name: str):
        found = getattr(self._client, name)
        if not name.startswith(_WRITES):
            return found

        def write(*args, **options):
            type(self).count += 1
            if type(self).count == self._fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return found(*args, **options)

        return write


def _promote_until(uri: str, folder: str, args: tuple, fatal: int, results) -> None:
    use(uri, Path(folder))
    real = connection.client
    connection.client = lambda: _Deadly(real(), fatal)  # type: ignore[method-assign]
    verdict = promote("m", *args).verdict
    results.write_text(json.dumps([verdict, _Deadly.count]))


def _in_child(database: Path, args: tuple, fatal: int, results: Path) -> int:
    uri = os.environ["MLFLOW_TRACKING_URI"]
    child = forked.process(_promote_until, uri, str(database), args, fatal, results)
    child.start()
    child.join(LONG)
    assert child.exitcode is not None
    return child.exitcode


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_killed_before_any_write_the_old_champion_serves_and_a_rerun_completes(database, students, tmp_path):
    """SIGKILL before the first write to MLflow, before the second, ... until there is none left; each on a copy of the
    same registry, and then the same work again."""
    promote("m", students[0], evaluation(tmp_path / "e1", bm25=0.2, phase2=0.6), "", "k1")
    better = evaluation(tmp_path / "e2", bm25=0.2, phase2=0.7, champion=0.6)
    args = (students[1], better, "models:/m/1", "k2")
    kept = database.with_name("kept.db")
    shutil.copyfile(database / "mlflow.db", kept)
    results = tmp_path / "results.json"
    seen = set()
    fatal = 0
    while True:
        fatal += 1
        shutil.copyfile(kept, database / "mlflow.db")
        results.unlink(missing_ok=True)
        code = _in_child(database, args, fatal, results)
        if code == 0:
            break
        assert code == -signal.SIGKILL, code
        uri = f"sqlite:///{database}/mlflow.db"
        before = _look(uri)
        seen.add((before["champion"], before["versions"], before["entries"]))
        assert before["champion"] in ("1", "2") and before["loads"]
        if before["champion"] == "2":
            assert before["tags"]["inranker.verdict"] == "PROMOTE" and before["entries"] == 2
        assert _in_child(database, args, 0, results) == 0
        after = _look(uri)
        assert json.loads(results.read_text())[0] == "PROMOTE"
        assert (after["champion"], after["challenged"], after["versions"], after["entries"]) == ("2", False, 2, 2), (
            fatal
        )
        assert after["applied"] and after["tags"]["inranker.verdict"] == "PROMOTE" and after["loads"]
    verdict, writes = json.loads(results.read_text())
    assert verdict == "PROMOTE" and writes == fatal - 1 >= 8
    # All that a crash can leave was seen: nothing yet, a version, an entry in the log, the alias moved.
    assert {("1", 1, 1), ("1", 2, 1), ("1", 2, 2), ("2", 2, 2)} <= seen


def _look(uri: str) -> dict:
    """What a client that was never there before finds."""
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    champion = client.get_model_version_by_alias("m", "champion")
    log = client.search_model_versions("name = 'zz-m-history'")
    stored_files._fetched.clear()
    return {
        "champion": str(champion.version),
        "challenged": "challenger" in client.get_registered_model("m").aliases,
        "tags": dict(champion.tags),
        "versions": len(client.search_model_versions("name = 'm'")),
        "entries": len(log),
        "applied": all(each.tags["inranker.applied"] == "true" for each in log),
        "loads": (stored_files.fetch(f"models:/m/{champion.version}") / "model.safetensors").is_file(),
    }
