"""How many cores: made-up file trees for the cgroups, a real process for the affinity."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallelkit import cpus
from parallelkit.cpus import Limit, cpu_count, cpu_limits, describe

V2 = "30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:4 master:1 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct"
V1_CPUSET = "32 25 0:28 / /sys/fs/cgroup/cpuset rw,nosuid - cgroup cgroup rw,cpuset"
UNIFIED = "33 25 0:29 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw"
OTHERS = "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n23 22 0:5 / /proc rw - proc proc rw"

START_AND_FINISH = 30  # seconds a subprocess gets before it counts as stuck, less than a test gets


@pytest.fixture(autouse=True)
def _no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PARALLELKIT_CPU_COUNT", raising=False)
    monkeypatch.delenv("PYTHON_CPU_COUNT", raising=False)


def tree(root: Path, cgroup: str, mounts: str, **files: str) -> Path:
    """A file system under `root` with these files in its /sys/fs/cgroup and this process in `cgroup`."""
    proc = root / "proc" / "self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text(f"{cgroup}\n")
    (proc / "mountinfo").write_text(f"{OTHERS}\n{mounts}\n")
    for name, text in files.items():
        write(root / "sys" / "fs" / "cgroup" / name, text)
    return root


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")


def v1(directory: str, quota: int, period: int = 100_000) -> dict[str, str]:
    return {f"{directory}/cpu.cfs_quota_us": str(quota), f"{directory}/cpu.cfs_period_us": str(period)}


def quotas(root: Path) -> list[float]:
    return [limit.cpus for limit in cpus._cgroup_limits(str(root))]


def with_only(monkeypatch: pytest.MonkeyPatch, *limits: Limit) -> None:
    """Let the process have these limits and no others."""
    monkeypatch.setattr(cpus, "_cores", lambda: limits[0])
    monkeypatch.setattr(cpus, "_cgroup_limits", lambda root: limits[1:])


class TestCgroupV2:
    def test_max_is_no_limit(self, tmp_path: Path) -> None:
        assert quotas(tree(tmp_path, "0::/app", V2, **{"app/cpu.max": "max 100000"})) == []

    def test_the_root_cgroup_has_no_file_and_no_limit(self, tmp_path: Path) -> None:
        assert quotas(tree(tmp_path, "0::/", V2)) == []

    def test_one_level(self, tmp_path: Path) -> None:
        root = tree(tmp_path, "0::/app", V2, **{"app/cpu.max": "400000 100000"})
        (limit,) = cpus._cgroup_limits(str(root))
        assert limit.source == "cgroup v2"
        assert limit.cpus == 4
        assert Path(limit.detail) == tmp_path / "sys/fs/cgroup/app/cpu.max"

    def test_every_parent_counts_and_siblings_do_not(self, tmp_path: Path) -> None:
        files = {
            "a/cpu.max": "200000 100000",
            "a/b/cpu.max": "max 100000",
            "a/b/c/cpu.max": "800000 100000",
            "a/b/c/below/cpu.max": "100000 100000",
            "a/sibling/cpu.max": "100000 100000",
        }
        assert quotas(tree(tmp_path, "0::/a/b/c", V2, **files)) == [8, 2]

    def test_a_level_without_the_controller_does_not_end_the_way_up(self, tmp_path: Path) -> None:
        root = tree(tmp_path, "0::/a/b", V2, **{"a/cpu.max": "200000 100000"})
        (root / "sys/fs/cgroup/a/b").mkdir()
        assert quotas(root) == [2]

    def test_a_period_of_its_own(self, tmp_path: Path) -> None:
        assert quotas(tree(tmp_path, "0::/app", V2, **{"app/cpu.max": "30000 20000"})) == [1.5]

    def test_a_path_with_colons_and_blanks(self, tmp_path: Path) -> None:
        mount = V2.replace("/sys/fs/cgroup ", r"/sys/fs/cgroup/my\040own\134040tree ")
        root = tree(tmp_path, "0::/a b:c", mount)
        write(root / "sys/fs/cgroup/my own\\040tree/a b:c/cpu.max", "300000 100000")
        assert quotas(root) == [3]

    @pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux alone")
    def test_a_path_that_is_not_utf_8(self, tmp_path: Path) -> None:
        name = os.fsdecode(b"caf\xe9")
        root = tree(tmp_path, "0::/", V2, **{f"{name}/cpu.max": "300000 100000"})
        (root / "proc/self/cgroup").write_bytes(b"0::/caf\xe9\n")
        assert quotas(root) == [3]


class TestCgroupV1:
    OWN = "7:cpu,cpuacct:/app/inner\n4:cpuset:/\n1:name=systemd:/app"

    def test_minus_one_is_no_limit(self, tmp_path: Path) -> None:
        files = v1("cpu,cpuacct/app/inner", -1)
        assert quotas(tree(tmp_path, self.OWN, V1, **files)) == []

    def test_plain(self, tmp_path: Path) -> None:
        mount = "31 25 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"
        (limit,) = cpus._cgroup_limits(str(tree(tmp_path, "4:cpu:/app", mount, **v1("cpu/app", 250_000))))
        assert limit.source == "cgroup v1"
        assert limit.cpus == 2.5
        assert Path(limit.detail) == tmp_path / "sys/fs/cgroup/cpu/app/cpu.cfs_quota_us"

    def test_combined_controllers_and_nested(self, tmp_path: Path) -> None:
        files = (
            v1("cpu,cpuacct/app/inner", 600_000)
            | v1("cpu,cpuacct/app", 100_000, period=50_000)
            | v1("cpu,cpuacct", -1)
        )
        assert quotas(tree(tmp_path, self.OWN, f"{V1_CPUSET}\n{V1}", **files)) == [6, 2]

    def test_another_controller_is_not_read(self, tmp_path: Path) -> None:
        mounts = "\n".join([V1_CPUSET, "35 25 0:31 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct"])
        files = v1("cpuset", 100_000) | v1("cpuacct", 100_000)
        assert quotas(tree(tmp_path, "7:cpuset:/\n4:cpuacct:/\n2:cpu:/", mounts, **files)) == []


class TestHybrid:
    OWN = "4:cpu,cpuacct:/app\n0::/app"

    def test_the_quota_is_in_v1(self, tmp_path: Path) -> None:
        root = tree(tmp_path, self.OWN, f"{V1}\n{UNIFIED}", **v1("cpu,cpuacct/app", 300_000))
        (root / "sys/fs/cgroup/unified/app").mkdir(parents=True)
        assert quotas(root) == [3]

    def test_the_quotas_of_both_count(self, tmp_path: Path) -> None:
        files = v1("cpu,cpuacct/app", 300_000) | {"unified/app/cpu.max": "200000 100000"}
        limits = cpus._cgroup_limits(str(tree(tmp_path, self.OWN, f"{V1}\n{UNIFIED}", **files)))
        assert {(limit.source, limit.cpus) for limit in limits} == {("cgroup v1", 3), ("cgroup v2", 2)}


class TestContainers:
    """What is mounted and what /proc/self/cgroup says need not start at the same cgroup."""

    def test_its_own_namespace(self, tmp_path: Path) -> None:
        assert quotas(tree(tmp_path, "0::/", V2, **{"cpu.max": "150000 100000"})) == [1.5]

    def test_the_path_of_the_host_does_not_exist_below_the_mount(self, tmp_path: Path) -> None:
        root = tree(tmp_path, "0::/docker/0123abcd", V2, **{"cpu.max": "150000 100000"})
        assert quotas(root) == [1.5]

    def test_the_mount_shows_a_part_of_the_tree(self, tmp_path: Path) -> None:
        mount = V1.replace(" / /sys", " /docker/0123abcd /sys")
        files = v1("cpu,cpuacct", 400_000) | v1("cpu,cpuacct/inner", 200_000)
        assert quotas(tree(tmp_path, "4:cpu,cpuacct:/docker/0123abcd/inner", mount, **files)) == [2, 4]

    @pytest.mark.parametrize(
        ("top", "own"),
        [("/..", "/"), ("/", "/../sibling"), ("/docker/0123", "/docker/0123abcd"), ("/docker/0123", "/")],
    )
    def test_a_path_outside_the_mount_falls_back_to_the_mount(
        self, tmp_path: Path, top: str, own: str
    ) -> None:
        mount = V2.replace(" / /sys", f" {top} /sys")
        # Wherever a path cut in the wrong place would lead, there is a tighter quota that is not ours.
        wrong = dict.fromkeys(["sibling/cpu.max", "../sibling/cpu.max", "bcd/cpu.max"], "100000 100000")
        files = wrong | {"cpu.max": "150000 100000"}
        root = tree(tmp_path, f"4:cpu,cpuacct:/\n0::{own}", f"{V1}\n{mount}", **files)
        assert quotas(root) == [1.5]

    def test_a_mount_of_somebody_elses_cgroup_is_not_read(self, tmp_path: Path) -> None:
        other = "36 25 0:26 /other /mnt/other rw - cgroup2 cgroup2 rw"
        root = tree(tmp_path, "0::/app", f"{other}\n{V2}", **{"app/cpu.max": "400000 100000"})
        write(root / "mnt/other/cpu.max", "100000 100000")
        assert quotas(root) == [4]

    def test_a_tree_mounted_twice_over_one_place_counts_once(self, tmp_path: Path) -> None:
        assert quotas(tree(tmp_path, "0::/app", f"{V2}\n{V2}", **{"app/cpu.max": "400000 100000"})) == [4]


class TestGarbled:
    def test_no_proc_at_all(self, tmp_path: Path) -> None:
        assert quotas(tmp_path) == []

    def test_a_path_that_no_file_can_have(self, tmp_path: Path) -> None:
        assert quotas(tree(tmp_path, "0::/a\x00b", V2)) == []

    def test_no_mount(self, tmp_path: Path) -> None:
        assert quotas(tree(tmp_path, "0::/app\n4:cpu:/app", "", **{"app/cpu.max": "100000 100000"})) == []

    @pytest.mark.parametrize(
        "text",
        [
            *("", "max", "100000", "1 2 3"),
            *("100000 0", "0 100000", "-1 100000", "-100000 -100000"),
            *("few many", "nan 100000", "1e5 100000", "\x00"),
            *(f"{'9' * 400} 1", f"1 {'9' * 400}", f"{'9' * 5000} 1"),
        ],
    )
    def test_cpu_max(self, tmp_path: Path, text: str) -> None:
        assert quotas(tree(tmp_path, "0::/app", V2, **{"app/cpu.max": text})) == []

    @pytest.mark.parametrize(
        ("quota", "period"),
        [("", "100000"), ("100000", ""), ("x", "100000"), ("100000", "0"), ("-1", "-1"), ("0", "100000")],
    )
    def test_cfs_quota(self, tmp_path: Path, quota: str, period: str) -> None:
        files = {"cpu,cpuacct/cpu.cfs_quota_us": quota, "cpu,cpuacct/cpu.cfs_period_us": period}
        assert quotas(tree(tmp_path, "4:cpu,cpuacct:/", V1, **files)) == []

    def test_a_quota_without_its_period(self, tmp_path: Path) -> None:
        files = {"cpu,cpuacct/cpu.cfs_quota_us": "100000"}
        assert quotas(tree(tmp_path, "4:cpu,cpuacct:/", V1, **files)) == []

    def test_a_directory_in_the_place_of_the_file(self, tmp_path: Path) -> None:
        root = tree(tmp_path, "0::/app", V2)
        (root / "sys/fs/cgroup/app/cpu.max").mkdir(parents=True)
        assert quotas(root) == []

    @given(cgroup=st.binary(max_size=80), mounts=st.binary(max_size=200), quota=st.binary(max_size=40))
    def test_any_bytes_are_read_without_an_error(self, cgroup: bytes, mounts: bytes, quota: bytes) -> None:
        for own, mounted in [
            (cgroup, V2.encode()),
            (b"0::/", mounts),
            (cgroup, mounts),
            (b"0::/", V2.encode()),
        ]:
            with tempfile.TemporaryDirectory() as directory:
                root = tree(Path(directory), "", "")
                write(root / "sys/fs/cgroup/cpu.max", "")
                (root / "proc/self/cgroup").write_bytes(own)
                (root / "proc/self/mountinfo").write_bytes(mounted)
                (root / "sys/fs/cgroup/cpu.max").write_bytes(quota)
                assert all(limit.cpus > 0 for limit in cpus._cgroup_limits(str(root)))


class TestTheNumber:
    @pytest.mark.parametrize(
        ("text", "number"),
        [("150000 100000", 2), ("20000 100000", 1), ("200000 100000", 2), ("1 1000000", 1)],
    )
    def test_a_fraction_is_rounded_up(self, tmp_path: Path, text: str, number: int) -> None:
        limits = cpus._cgroup_limits(str(tree(tmp_path, "0::/app", V2, **{"app/cpu.max": text})))
        assert cpus._whole(cpus._decisive(limits)) == number

    @given(
        quotas=st.lists(
            st.none() | st.tuples(st.integers(1, 10**9), st.integers(1, 10**6)), min_size=1, max_size=8
        ).filter(any),
        hierarchy=st.sampled_from(["cgroup v1", "cgroup v2"]),
    )
    def test_it_is_the_smallest_quota_of_the_chain_rounded_up(
        self, quotas: list[tuple[int, int] | None], hierarchy: str
    ) -> None:
        names = [f"level{depth}" for depth in range(len(quotas))]
        files: dict[str, str] = {}
        for depth, quota in enumerate(quotas, start=1):
            directory = "/".join(names[:depth])
            if hierarchy == "cgroup v1":
                files |= v1(f"cpu,cpuacct/{directory}", *(quota or (-1, 100_000)))
            else:
                files[f"{directory}/cpu.max"] = "{} {}".format(*(quota or ("max", 100_000)))
        own, mount = ("4:cpu,cpuacct:/", V1) if hierarchy == "cgroup v1" else ("0::/", V2)
        with tempfile.TemporaryDirectory() as directory:
            root = tree(Path(directory), own + "/".join(names), mount, **files)
            number = cpus._whole(cpus._decisive(cpus._cgroup_limits(str(root))))
        # The reference divides whole numbers, so that it owes nothing to floats.
        assert number == min(-(-quota // period) for quota, period in filter(None, quotas))
        assert number >= 1

    def test_the_smallest_of_affinity_and_quotas(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tight, loose = Limit("cgroup v2", 2.5, "inner"), Limit("cgroup v2", 7, "outer")
        with_only(monkeypatch, Limit("affinity", 4, "here"), loose, tight)
        assert cpu_count() == 3
        with_only(monkeypatch, Limit("affinity", 2, "here"), loose, tight)
        assert cpu_count() == 2

    def test_here_it_agrees_with_its_limits(self) -> None:
        limits = cpu_limits()
        assert limits[0].source in ("affinity", "machine")
        smallest = min(limit.cpus for limit in limits)
        assert smallest <= cpu_count() < smallest + 1


class TestOverride:
    BAD = ("0", "-1", "1.5", "four", "nan", "4 cores", "default4", "9" * 5000)

    @pytest.mark.parametrize("name", ["PARALLELKIT_CPU_COUNT", "PYTHON_CPU_COUNT"])
    def test_it_overrides_smaller_limits_too(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        with_only(monkeypatch, Limit("affinity", 2, "here"))
        monkeypatch.setenv(name, "64")
        assert cpu_count() == 64
        assert cpu_count(physical=True) == 64
        assert cpu_limits() == (Limit("environment", 64, name), Limit("affinity", 2, "here"))

    def test_ours_goes_before_pythons(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PARALLELKIT_CPU_COUNT", "3")
        monkeypatch.setenv("PYTHON_CPU_COUNT", "5")
        assert cpu_count() == 3

    @pytest.mark.parametrize("unset", ["", "default"])
    def test_empty_and_default_mean_not_set(self, monkeypatch: pytest.MonkeyPatch, unset: str) -> None:
        counted = cpu_count()
        monkeypatch.setenv("PARALLELKIT_CPU_COUNT", unset)
        monkeypatch.setenv("PYTHON_CPU_COUNT", "5")
        assert cpu_count() == 5
        monkeypatch.setenv("PYTHON_CPU_COUNT", unset)
        assert cpu_count() == counted

    @pytest.mark.parametrize("name", ["PARALLELKIT_CPU_COUNT", "PYTHON_CPU_COUNT"])
    @pytest.mark.parametrize("value", BAD)
    @pytest.mark.parametrize("function", [cpu_count, cpu_limits, describe])
    def test_a_bad_value_says_what_to_do(
        self, monkeypatch: pytest.MonkeyPatch, name: str, value: str, function: object
    ) -> None:
        monkeypatch.setenv(name, value)
        with pytest.raises(ValueError, match=f"{name} is '{value}'.*set it to the number of cores") as caught:
            function()  # type: ignore[operator]
        assert "unset it" in str(caught.value)


class TestPhysical:
    def test_at_most_the_logical_number(self) -> None:
        assert 1 <= cpu_count(physical=True) <= cpu_count()

    @pytest.mark.parametrize(("known", "number"), [(2, 2), (6, 4), (None, 4)])
    def test_the_smaller_of_both(
        self, monkeypatch: pytest.MonkeyPatch, known: int | None, number: int
    ) -> None:
        monkeypatch.setattr("psutil.cpu_count", lambda *, logical: None if logical else known)
        with_only(monkeypatch, Limit("affinity", 4, "here"))
        assert cpu_count(physical=True) == number
        assert cpu_count() == 4

    def test_without_psutil_the_logical_number(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "psutil", None)
        assert cpu_count(physical=True) == cpu_count()

    def test_psutil_that_cannot_read_the_system(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def unreadable(*, logical: bool) -> int:
            raise FileNotFoundError("/proc/cpuinfo")

        monkeypatch.setattr("psutil.cpu_count", unreadable)
        assert cpu_count(physical=True) == cpu_count()


class TestAffinity:
    pinnable = pytest.mark.skipif(
        not hasattr(os, "sched_setaffinity"), reason="this system does not let a process choose its cores"
    )

    @staticmethod
    def run(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=START_AND_FINISH, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    @pinnable
    @pytest.mark.skipif(shutil.which("taskset") is None, reason="taskset (util-linux) is not installed")
    def test_taskset(self) -> None:
        # Core 0, or the first one that this very process may use where 0 is not among them.
        core = str(min(os.sched_getaffinity(0)))
        code = "from parallelkit.cpus import cpu_count; print(cpu_count())"
        assert self.run("taskset", "-c", core, sys.executable, "-c", code) == "1"

    @pinnable
    def test_every_number_of_cores_that_a_process_pins_itself_to(self) -> None:
        cores = sorted(os.sched_getaffinity(0))
        code = (
            "import os; from parallelkit.cpus import cpu_limits\n"
            f"for n in range(1, {len(cores)} + 1):\n"
            f"    os.sched_setaffinity(0, {cores}[:n])\n"
            "    print(next(limit.cpus for limit in cpu_limits() if limit.source == 'affinity'))"
        )
        assert self.run(sys.executable, "-c", code).split() == [str(n + 1) for n in range(len(cores))]

    def test_where_there_is_none_the_machine_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 12)
        assert cpu_limits()[0] == Limit("machine", 12, "os.cpu_count()")
        monkeypatch.setattr(os, "cpu_count", lambda: None)
        assert cpu_count() == 1

    def test_where_it_is_forbidden_the_machine_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def forbidden(pid: int) -> set[int]:
            raise PermissionError(pid)

        monkeypatch.setattr(os, "sched_getaffinity", forbidden, raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 12)
        assert cpu_limits()[0] == Limit("machine", 12, "os.cpu_count()")


class TestDescribe:
    def test_the_table_and_the_reason(self, monkeypatch: pytest.MonkeyPatch) -> None:
        quota = Limit("cgroup v2", 1.5, "/sys/fs/cgroup/app/cpu.max")
        with_only(monkeypatch, Limit("affinity", 4, "os.sched_getaffinity(0)"), quota)
        assert describe().splitlines() == [
            "source        cpus  detail",
            "affinity         4  os.sched_getaffinity(0)",
            "cgroup v2      1.5  /sys/fs/cgroup/app/cpu.max",
            "cpu_count() = 2, because /sys/fs/cgroup/app/cpu.max gives 1.5",
        ]

    def test_the_override_is_the_reason(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PARALLELKIT_CPU_COUNT", "3")
        assert describe().splitlines()[-1] == "cpu_count() = 3, because PARALLELKIT_CPU_COUNT gives 3"


def test_the_module_alone_imports_nothing_heavy() -> None:
    # Run as bare text, so that only this module's own imports are seen and not the package's.
    source = Path(cpus.__file__).read_text(encoding="utf-8")
    code = (
        f"import sys; exec({source!r}, {{'__name__': 'cpus'}})\n"
        "print(*{'psutil', 'multiprocessing', 'subprocess', 'pathlib', 'dataclasses'} & set(sys.modules))"
    )
    assert TestAffinity.run(sys.executable, "-S", "-c", code) == ""
