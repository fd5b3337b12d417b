"""`python -m benchmarks`: peers that hang, fail or lie do not stop it, and the report is honest.

Nothing is measured here; the peers are fakes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

if os.name != "posix":
    pytest.skip("children are ended by their group, which is POSIX", allow_module_level=True)

from benchmarks.children import MARK, surroundings  # noqa: E402 - benchmarks are not installed
from benchmarks.peers.table import SIDES  # noqa: E402
from benchmarks.running import Limits, Outcomes, WorkRun  # noqa: E402
from benchmarks.works.base import DEFAULT, FULL, QUICK, Plan  # noqa: E402
from benchmarks.works.table import WORKS, work_named  # noqa: E402

HERE = "programs.fake_peers"
LIMITS = Limits(
    rounds=3, final_rounds=0, round_seconds=2.0, start_seconds=20.0, case_seconds=60.0, end_seconds=5.0
)


@pytest.fixture
def plan_and_environment() -> Iterator[tuple[Plan, dict[str, str]]]:
    with surroundings() as (folder, environment):
        environment["PYTHONPATH"] += os.pathsep + str(ROOT / "tests")
        yield Plan(QUICK, 2, 1e6, folder), environment


def run(given: tuple[Plan, dict[str, str]], *peers: str, work: str = "WORK", **limits: float) -> Outcomes:
    plan, environment = given
    sides = [f"{HERE}:{peer}" for peer in peers]
    found = WorkRun(
        work_named(f"{HERE}:{work}"), sides, plan, replace(LIMITS, **limits), environment, print
    ).run()
    return {(case, side.partition(":")[2]): outcome for (case, side), outcome in found.items()}


Given = tuple[Plan, dict[str, str]]


def test_each_side_has_its_rounds(plan_and_environment: Given) -> None:
    found = run(plan_and_environment, "Reference", "Ours", "Good")
    assert set(found) == {
        (case, side) for case in ("three", "four") for side in ("Reference", "Ours", "Good")
    }
    for outcome in found.values():
        assert outcome.trouble == ""
        assert (
            len(outcome.rounds) == 3 or outcome is found["three", "Good"] or outcome is found["four", "Good"]
        )
        assert all(value > 0 for value in outcome.values)


def test_who_is_hopelessly_behind_has_one_round(plan_and_environment: Given) -> None:
    found = run(plan_and_environment, "Ours", "Slow")
    assert len(found["three", "Slow"].rounds) == 1
    assert len(found["three", "Ours"].rounds) == 3


def test_only_the_best_peers_are_in_the_finals_and_only_these_rounds_count(
    plan_and_environment: Given,
) -> None:
    found = run(
        plan_and_environment, "Reference", "Ours", "Good", "Fair", "Mean", "Slow", rounds=1, final_rounds=4
    )
    for case in ("three", "four"):
        rounds = {side: len(outcome.rounds) for (name, side), outcome in found.items() if name == case}
        in_finals = {side for (name, side), outcome in found.items() if name == case and outcome.in_finals}
        assert in_finals == {"Reference", "Ours", "Good", "Fair", "Mean"}
        assert rounds == {side: 4 if side in in_finals else 1 for side in rounds}


def test_the_best_peer_is_one_of_the_finals() -> None:
    """Another that was lucky in its one round is not."""
    report = report_of({"row": {"parallelkit": [1.0], "loky": [1.1], "Pool.map": [0.5]}})
    report.groups[0].rows[0].finalists = ["parallelkit", "loky"]
    from benchmarks.verdicts import AHEAD, lines

    (line,) = lines(report)
    assert line.best_peer == "loky"
    assert line.verdict == AHEAD


def test_a_peer_that_hangs_is_ended_and_comes_back(plan_and_environment: Given) -> None:
    found = run(plan_and_environment, "Hanging", "Ours", round_seconds=1.0)
    assert found["three", "Hanging"].rounds
    assert found["four", "Hanging"].trouble == "too slow (> 1 s)"
    assert not found["four", "Hanging"].rounds
    assert found["four", "Ours"].rounds
    assert nobody_is_left(plan_and_environment)


def test_a_peer_that_never_starts(plan_and_environment: Given) -> None:
    found = run(plan_and_environment, "NeverReady", "Ours", start_seconds=5.0)
    assert found["three", "NeverReady"].trouble == "does not start: too slow (> 5 s)"
    assert found["four", "NeverReady"].trouble == "does not start: too slow (> 5 s)"
    assert found["four", "Ours"].rounds


def test_a_peer_that_fails_says_why_and_may_do_the_next_case(plan_and_environment: Given) -> None:
    found = run(plan_and_environment, "Failing", "Dying", "Ours")
    assert found["three", "Failing"].trouble == "fails: ValueError: three are too many"
    assert found["four", "Failing"].rounds
    assert found["three", "Dying"].trouble == "fails: last words"
    assert found["four", "Ours"].rounds


def test_a_peer_that_is_not_installed_is_named(plan_and_environment: Given) -> None:
    found = run(plan_and_environment, "Absent", "Ours")
    assert found["three", "Absent"].trouble == "not installed: no_such_module"


def test_a_wrong_result_is_no_figure(plan_and_environment: Given) -> None:
    found = run(plan_and_environment, "Reference", "Wrong", "Ours")
    assert found["three", "Wrong"].trouble.startswith("wrong result")
    assert not found["three", "Wrong"].rounds
    assert found["three", "Ours"].rounds


def test_a_case_may_have_a_process_for_each_round(plan_and_environment: Given) -> None:
    found = run(plan_and_environment, "Ours", work="APART")
    assert len(set(found["apart", "Ours"].values)) == 3


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_side_that_is_installed_does_what_it_offers(plan_and_environment: Given) -> None:
    plan, environment = plan_and_environment
    work = work_named(f"{HERE}:EVERY_CALL")
    patient = replace(LIMITS, round_seconds=20.0, start_seconds=90.0)
    found = WorkRun(work, SIDES, plan, patient, environment).run()
    troubles = {key: outcome.trouble for key, outcome in found.items()}
    wrong = {key: trouble for key, trouble in troubles.items() if not trouble.startswith("not installed")}
    assert {key: trouble for key, trouble in wrong.items() if trouble} == {}
    assert len(wrong) > 40  # those that need nothing but Python


def nobody_is_left(given: Given) -> bool:
    import psutil

    def marked(process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == given[1][MARK] and process.status() != "zombie"
        except psutil.Error:
            return False

    return not any(map(marked, psutil.process_iter()))


# ---------------------------------------------------------------- the tables of peers and works


def test_every_level_has_every_work(tmp_path: Path) -> None:
    assert [work.number for work in WORKS.values()] == list(range(1, 13))
    offers = {offer for kind in SIDES.values() for offer in kind.offers}
    for level in (QUICK, DEFAULT, FULL):
        for work in WORKS.values():
            cases = work.cases(Plan(level, 2, 1e6, str(tmp_path)))
            names = [case.name for case in cases]
            assert len(set(names)) == len(names) > 0
            for case in cases:
                assert case.needs in offers
                assert case.grows_from in ("", *names[: names.index(case.name)])
                assert set(case.leaves_out) <= set(SIDES)


def test_list() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--list"], cwd=ROOT, capture_output=True, text=True, timeout=50
    )
    if "No module named 'pyperf'" in done.stderr:
        pytest.skip("pyperf is not installed")
    assert done.returncode == 0, done.stderr
    for word in ("loky", "mpire", "Ray Pool", "asyncio.TaskGroup", "12  scale"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workers", "0"], "--workers must be at least 1, not 0"),
        (["--peer", "loki"], "there is no peer or work 'loki'"),
        (["--work", "13"], "there is no peer or work '13'"),
        (["--peer", "no_such_module:Peer"], "cannot be imported: No module named 'no_such_module'"),
        (["--peer", "os:no_such_name"], "cannot be imported"),
        (["--peer", "os:path"], "os:path is no subclass of benchmarks.peers.base.Side"),
        (["--work", "os:path"], "os:path is no benchmarks.works.base.Work"),
    ],
)
def test_what_is_wrong_with_the_command_is_said_at_once(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyperf")
    from benchmarks.__main__ import parsed

    with pytest.raises(SystemExit):
        parsed(arguments)
    assert said in " ".join(capsys.readouterr().err.split())


def test_names_may_have_spaces_and_come_twice() -> None:
    pytest.importorskip("pyperf")
    from benchmarks.__main__ import parsed

    given = parsed(["--work", "9, 10,9", "--peer", "loky , loky,mpire"])
    assert [work.number for work in given.works] == [9, 10]
    assert len(set(given.sides)) == len(given.sides)
    assert {"loky", "mpire", "parallelkit", "serial loop"} <= set(given.sides)


def test_a_folder_that_is_none_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    pytest.importorskip("pyperf")
    from benchmarks.__main__ import main

    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=r"--out .*file: "):
        main(["--out", str(tmp_path / "file")])
    with pytest.raises(SystemExit, match=r"--out .*run\.json"):
        main(["--again", "--out", str(tmp_path)])


# ---------------------------------------------------------------- the report


def report_of(seconds: dict[str, dict[str, list[float]]], **facts: Any) -> Any:
    """By row and side, the values of one round each."""
    pytest.importorskip("pyperf")
    from benchmarks.figures import Report, group_of
    from benchmarks.running import Outcome
    from benchmarks.works.base import Case, Measured, Work

    cases = [Case(name=name, measure=lambda side, n: Measured([]), **facts) for name in seconds]
    work = Work(number=5, name="skew", title="Skewed work", text="Text.", cases=lambda plan: cases)
    outcomes = {
        (name, side): Outcome([values] if values else [], "" if values else "too slow (> 3 s)")
        for name, sides in seconds.items()
        for side, values in sides.items()
    }
    machine = {
        "command": "python -m benchmarks", "date": "1 January 2027", "processor": "P", "cores": 2,
        "workers": 2, "memory_gib": 8, "system": "S", "python": "CPython", "load": [0.1, 0.2, 0.3],
        "versions": {"loky": "3.7", "ray": "not installed"},
    }  # fmt: skip
    return Report(machine, [group_of(work, cases, outcomes)])


def test_the_report_names_the_rows_in_which_we_are_behind() -> None:
    report = report_of(
        {
            "first": {"parallelkit": [2.0, 2.1, 2.2], "loky": [1.0, 1.1, 1.0], "Pool.map": []},
            "second": {"parallelkit": [0.5], "loky": [0.6], "serial loop": [0.4]},
            "third": {"parallelkit": [], "loky": [0.6]},
        }
    )
    from benchmarks.report import markdown

    text = markdown(report, {"skew": "benchmarks/skew.png"})
    top, _, tables = text.partition("## 5. Skewed work")
    assert "ahead of every peer in 1, within 3 % of the floor in 0, behind in 2" in top
    assert "  - first: 2.1 s, loky 1 s (2.10 times)" in top
    assert "  - third: too slow (> 3 s)" in top
    assert "- second" not in top
    assert tables.count("**behind**") == 2
    assert "the serial loop is faster" in tables
    assert "Not installed: ray." in text
    assert "![Skewed work](benchmarks/skew.png)" in text


def test_the_report_of_a_run_that_was_stopped_says_so() -> None:
    report = report_of({"row": {"parallelkit": [1.0]}})
    report.machine |= {"wanted": ["5. Skewed work", "7. Reduce"], "rounds": [2, 8, 5.0]}
    from benchmarks.report import markdown

    text = " ".join(markdown(report, {}).split())
    assert "**It was stopped before its end. Not measured: 7. Reduce.**" in text
    assert "one after the other (2)." in text
    assert "have more rounds (8)" in text
    assert "round (5 s, where" in text


def test_a_row_that_nobody_did_is_not_one_in_which_we_are_behind() -> None:
    report = report_of({"row": {"parallelkit": [], "loky": []}})
    from benchmarks.verdicts import BEHIND, lines

    (line,) = lines(report)
    assert line.verdict != BEHIND


def test_within_three_percent_of_the_floor_is_not_behind() -> None:
    report = report_of(
        {"row": {"parallelkit": [1.02], "loky": [1.01], "floor": [1.0]}},
        floor_name="plain processes",
    )
    from benchmarks.verdicts import AT_FLOOR, BEHIND, lines

    (line,) = lines(report)
    assert line.verdict == AT_FLOOR
    report = report_of({"row": {"parallelkit": [1.04], "loky": [1.01], "floor": [1.0]}})
    (line,) = lines(report)
    assert line.verdict == BEHIND


def test_the_report_can_be_made_again_from_its_files(tmp_path: Path) -> None:
    report = report_of(
        {"row": {"parallelkit": [1.0, 2.0, 3.0], "loky, chunksize": [2.5]}}, tail=True, ideal_seconds=0.5
    )
    from benchmarks.figures import load, save
    from benchmarks.report import markdown

    save(report, tmp_path)
    assert markdown(load(tmp_path), {}) == markdown(report, {})


def test_one_work_can_be_measured_anew() -> None:
    first = report_of({"row": {"parallelkit": [1.0]}})
    again = report_of({"other": {"parallelkit": [2.0]}})
    again.machine["command"] = "python -m benchmarks --update --work skew"
    from benchmarks.__main__ import continued
    from benchmarks.report import markdown

    report = continued(again, first)
    report.put(again.groups[0])
    assert [row.name for group in report.groups for row in group.rows] == ["other"]
    assert "Made by `python -m benchmarks`, and then `python -m benchmarks --update" in markdown(report, {})
    again.machine["python"] = "another"
    with pytest.raises(SystemExit, match="another python: CPython, not another"):
        continued(again, report_of({}))


def test_every_kind_of_picture_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = report_of(
        {"row": {"parallelkit": [1.0], "loky": [2.5], "Pool.map": [], "floor": [0.5]}}, payload=8, x=1.0
    )
    from benchmarks.plots import KINDS, draw

    for plot in KINDS:
        report.groups[0].plot = plot
        (path,) = draw(report, tmp_path).values()
        assert path.stat().st_size > 1000
