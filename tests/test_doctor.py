"""The doctor: what it says of a machine that we make up, and that it reads the real one rightly."""

import copy
import json
import math
import os
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

import featot
from featot import doctor
from featot.doctor import Diagnosis, diagnose, gather, judge
from featot.machine import cpu_quota, describe_machine, memory_limit, usable_memory
from featot.plugins import load_registry
from featot_cli.main import main


@pytest.fixture(scope="module")
def gathered():
    return gather(load_registry([EntryPoint("featot", "featot_plugins", "featot")]))


@pytest.fixture
def facts(gathered):
    """Those of a machine on which there is nothing to say; to be changed by the test."""
    found = copy.deepcopy(gathered)
    found["machine"] |= {"cores_present": 8, "cores": 8, "cgroup_cores": None, "load": 0.1, "environment": {}}
    found["machine"] |= {"memory": 2**34, "memory_free": 2**33, "cgroup_memory": None}
    found["torch"] |= {"threads": 8, "cpu_capability": "AVX2", "gpu_unused": None}
    found["faiss"] = {"version": "1.9", "built_for_gpu": False, "gpus": None}
    found["versions"]["missing"] = []
    found["versions"]["optional"] = dict.fromkeys(found["versions"]["optional"], "1.0")
    for weights in found["weights"].values():
        weights |= {"found": True, "variable_set": None}
    return found


def test_nothing_to_say(facts):
    assert judge(facts) == []


@pytest.mark.parametrize(
    ("group", "change", "level", "what", "remedy"),
    [
        ("torch", {"threads": 16}, "slow", "16 threads on 8 cores: they wait", "export OMP_NUM_THREADS=8"),
        (
            "machine",
            {"cores": 2, "cgroup_cores": 1.5},
            "slow",
            "8 threads on 2 cores that its control group grants: they wait",
            "export OMP_NUM_THREADS=2",
        ),
        ("torch", {"threads": 3}, "slow", "torch uses 3 of 8 cores", "export OMP_NUM_THREADS=8"),
        ("torch", {"cpu_capability": "DEFAULT"}, "slow", "no AVX2", "ATEN_CPU_CAPABILITY"),
        ("torch", {"gpu_unused": "there is a GPU, but"}, "slow", "there is a GPU, but", "https://pytorch.org"),
        ("torch", {"error": "ImportError: no"}, "broken", "torch cannot be imported: ImportError: no", "pip install"),
        ("machine", {"environment": {"OMP_WAIT_POLICY": "ACTIVE"}}, "slow", "OMP_WAIT_POLICY=ACTIVE", "unset OMP_"),
        ("machine", {"environment": {"GOMP_SPINCOUNT": "infinity"}}, "slow", "two runs at once", "unset GOMP_"),
        ("machine", {"environment": {"KMP_BLOCKTIME": "infinite"}}, "slow", "KMP_BLOCKTIME", "unset KMP_"),
        ("machine", {"load": 7.2}, "slow", "the load is 7.2 on 8 cores: others work here too", "OMP_NUM_THREADS"),
        ("machine", {"memory_free": 2**28}, "slow", "only 256 MiB of memory", "--size"),
        ("machine", {"cgroup_memory": 2**29}, "slow", "only 512 MiB of memory", "--size"),
        ("faiss", {"error": "ImportError: faiss"}, "note", "faiss cannot be used", "pip install faiss-cpu"),
        ("versions", {"missing": ["tifffile"]}, "broken", "tifffile is not installed", "pip install tifffile"),
        ("plugins", {"problems": ["plugin distribution x 1.0: no"]}, "broken", "x 1.0: no", "pip uninstall"),
    ],
)
def test_each_finding_names_its_remedy(facts, group, change, level, what, remedy, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    facts[group] |= change
    (finding,) = judge(facts)
    assert finding.level == level
    assert what in finding.what
    assert remedy in finding.remedy
    assert "\n" not in finding.what + finding.remedy
    assert Diagnosis(facts=facts, findings=[finding]).broken == (level == "broken")


@pytest.mark.parametrize(
    ("machine", "threads"),
    [
        ({"environment": {"GOMP_SPINCOUNT": "20000", "OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "8"}}, 8),
        ({"load": None, "memory_free": None}, 8),
        ({"load": 5.0}, 8),
        ({}, 4),  # what torch takes where two cores share one unit
        ({"cores": 2, "cgroup_cores": 2.0}, 2),
    ],
)
def test_what_is_no_finding(facts, machine, threads):
    facts["machine"] |= machine
    facts["torch"]["threads"] = threads
    assert judge(facts) == []


def test_a_variable_that_says_so_is_named(facts):
    facts["torch"]["threads"] = 1
    facts["machine"]["environment"] = {"OMP_NUM_THREADS": "1"}
    (finding,) = judge(facts)
    assert finding.what == "torch uses 1 of 8 cores, as OMP_NUM_THREADS says"


def test_missing_weights_are_a_note_and_a_wrong_name_is_broken(facts):
    facts["weights"]["vgg19"] |= {"found": False, "path": "/hub/checkpoints/vgg19.pth"}
    facts["weights"]["inception_v3"] |= {"found": False, "variable_set": "/nowhere.pth"}
    broken, note = judge(facts)  # the worst first
    assert (broken.level, note.level) == ("broken", "note")
    assert broken.what.startswith("FEATOT_INCEPTION_WEIGHTS names /nowhere.pth, and no such file")
    assert note.remedy == "put them at /hub/checkpoints/vgg19.pth, or name them in FEATOT_VGG19_WEIGHTS"


# ---- the real machine ----


def test_the_facts_of_this_machine(gathered):
    json.dumps(gathered, allow_nan=False)
    assert gathered["torch"]["threads"] == torch.get_num_threads()
    assert gathered["torch"]["gflops"] > 0.1
    assert len(gathered["torch"]["devices"]) == torch.cuda.device_count()
    assert gathered["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert gathered["versions"]["missing"] == []
    assert {"click", "pillow", "safetensors"} < gathered["versions"].keys()
    assert 1 <= gathered["machine"]["cores"] <= os.cpu_count()
    assert gathered["plugins"]["kinds"]["features"] >= 5
    assert gathered["plugins"]["problems"] == []
    assert gathered["faiss"].keys() in ({"error"}, {"version", "built_for_gpu", "gpus"})


@pytest.mark.parametrize("network", doctor.WEIGHTS)
def test_weights_are_looked_for_where_they_are_taken_from(network, tmp_path, monkeypatch):
    from torchvision.models import get_model_weights

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = Path(next(iter(get_model_weights(network))).url).name
    expected = Path(torch.hub.get_dir(), "checkpoints", name)
    looked = doctor._weights()[network]
    assert (looked["path"], looked["found"]) == (str(expected), False)
    expected.parent.mkdir(parents=True)
    expected.touch()
    assert doctor._weights()[network]["found"]
    monkeypatch.setenv(looked["variable"], str(tmp_path / "other.pth"))
    assert not doctor._weights()[network]["found"]


@pytest.mark.parametrize(
    ("group", "files", "cores", "memory"),
    [
        ("0::/job\n", {"job/cpu.max": "150000 100000", "job/memory.max": "1073741824"}, 1.5, 2**30),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000", "a/b/memory.max": "max"}, 2, None),
        ("0::/../host\n", {"cpu.max": "300000 100000"}, 3, None),  # in a container
        (
            "4:memory:/j\n1:cpu,cpuacct:/j\n",
            {
                "cpu,cpuacct/j/cpu.cfs_quota_us": "50000",
                "cpu,cpuacct/j/cpu.cfs_period_us": "100000",
                "cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "cpu,cpuacct/cpu.cfs_period_us": "100000",
                "memory/j/memory.limit_in_bytes": "9223372036854771712",
                "memory/memory.limit_in_bytes": "4096",
            },
            0.5,
            4096,
        ),
        ("1:cpu:/j\n", {"cpu/j/cpu.cfs_quota_us": "-1", "cpu/j/cpu.cfs_period_us": "100000"}, None, None),
        (None, {}, None, None),
        ("nonsense\n", {"cpu.max": "a lot"}, None, None),
    ],
)
def test_limits_of_control_groups(group, files, cores, memory, tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    if group is not None:
        (tmp_path / "proc/self/cgroup").write_text(group)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert (cpu_quota(tmp_path), memory_limit(tmp_path)) == (cores, memory)


def test_a_quota_limits_the_cores(monkeypatch):
    monkeypatch.setattr("featot.machine.cpu_quota", lambda: 0.5)
    assert describe_machine()["cores"] == 1


def test_without_torch_it_still_answers(monkeypatch):
    registry = load_registry([EntryPoint("featot", "featot_plugins", "featot")])
    monkeypatch.setitem(sys.modules, "torch", None)
    found = diagnose(registry)
    assert found.broken
    assert found.findings[0].what.startswith("torch cannot be imported: ")


def test_a_plugin_that_cannot_be_imported_is_broken():
    registry = load_registry([EntryPoint("featot", "featot_plugins", "featot")])
    target = registry.get("features", "vgg")
    registry.plugins["features"]["odd"] = type(target)(
        "features", featot.Plugin("odd", "no_such_module:Odd", ""), "odd-features", "0.1"
    )
    (finding,) = [finding for finding in diagnose(registry).findings if finding.level == "broken"]
    assert finding.what.startswith("features plugin 'odd' of odd-features 0.1 failed to import no_such_module:Odd")


# ---- the command ----


def command(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *arguments])
    return ended.value.code, *capsys.readouterr()


def test_the_command_tells_facts_and_findings(capsys):
    code, out, err = command(capsys)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    titles = ("versions", "optional", "machine", "memory", "devices", "threads", "weights", "plugins")
    assert all(any(line.startswith(f"{title:<10}") for line in lines) for title in titles)
    assert f"featot {featot.__version__}, python " in lines[0]
    assert any(line.startswith("note      no weights of vgg19 here") for line in lines)
    findings = [i for i, line in enumerate(lines) if line.startswith(("broken ", "slow ", "note "))]
    assert findings
    assert all(lines[i + 1].startswith("          remedy: ") for i in findings)
    assert lines[-1] == "nothing is broken"


def test_the_command_fails_where_something_is_broken(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FEATOT_VGG16_WEIGHTS", str(tmp_path / "gone.pth"))
    code, out, err = command(capsys, "--json")
    assert (code, err) == (1, "")
    found = json.loads(out)
    assert not found["ok"]
    assert found["findings"][0]["level"] == "broken"
    assert "gone.pth" in found["findings"][0]["what"]
    assert found["facts"]["weights"]["vgg16"]["variable_set"].endswith("gone.pth")
    assert command(capsys)[1].endswith("something is broken\n")


@pytest.mark.parametrize(("present", "limit", "usable"), [(100, 40, 40), (100, None, 100), (None, None, math.inf)])
def test_usable_memory_is_what_the_control_group_leaves(present, limit, usable, monkeypatch):
    monkeypatch.setattr("featot.machine._memory", lambda: (present, present))
    monkeypatch.setattr("featot.machine.memory_limit", lambda: limit)
    assert usable_memory() == usable
