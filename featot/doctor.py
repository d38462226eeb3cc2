"""What is installed and what this machine offers; and of that what is broken, what is slow, and the remedies."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import featot
from featot.machine import describe_machine
from featot.plugins import KINDS, Registry

Level = Literal["broken", "slow", "note"]

# The file of torchvision's weights of each network, as torch.hub names it, and the variable that names another.
WEIGHTS = {
    "vgg19": ("vgg19-dcbb9e9d.pth", "FEATOT_VGG19_WEIGHTS"),
    "vgg16": ("vgg16-397923af.pth", "FEATOT_VGG16_WEIGHTS"),
    "inception_v3": ("inception_v3_google-0cc3c7bd.pth", "FEATOT_INCEPTION_WEIGHTS"),
}
_OPTIONAL = {  # what can be left out: what it is for, and how it is had
    "onnx": ("featot export", "pip install 'featot[onnx]'"),
    "onnxruntime": ("checking what featot export wrote", "pip install 'featot[onnx]'"),
    "tensorboard": ("what featot train logs for TensorBoard", "pip install tensorboard"),
    "pykeops": ("-o ot.backend=keops", "pip install pykeops"),
    "llvmlite": ("the faster search of CPUs with AVX2", "pip install llvmlite"),
}
_SCARCE = 2**30  # bytes of free memory
_SPINS = 1_000_000  # from so many on, threads that wait take the core from those that work


@dataclass(frozen=True)
class Finding:
    """Something to know: ``what`` it is, and the ``remedy``, a line each."""

    level: Level
    what: str
    remedy: str


@dataclass(frozen=True)
class Diagnosis:
    """The facts, by group, ready for JSON; and what follows from them."""

    facts: Mapping[str, Any]
    findings: list[Finding]

    @property
    def broken(self) -> bool:
        """Whether anything does not work."""
        return any(finding.level == "broken" for finding in self.findings)


def diagnose(registry: Registry) -> Diagnosis:
    """Looks at everything; takes a second or two, most of it to import torch. Never raises."""
    facts = gather(registry)
    return Diagnosis(facts=facts, findings=judge(facts))


def gather(registry: Registry) -> dict[str, Any]:
    """The facts: "versions", "machine", "torch", "faiss", "weights" and "plugins"."""
    torch = _torch()
    return {
        "versions": _versions(),
        "machine": describe_machine(),
        "torch": torch,
        "faiss": _faiss() if "error" not in torch else {"error": "it needs torch"},
        "weights": _weights(),
        "plugins": _plugins(registry, load="error" not in torch),
    }


def judge(facts: Mapping[str, Any]) -> list[Finding]:
    """What is broken, what is slow and why, what is missing: the worst first."""
    findings = [*_broken(facts), *_slow(facts), *_notes(facts)]
    return sorted(findings, key=lambda finding: ("broken", "slow", "note").index(finding.level))


def _broken(facts: Mapping[str, Any]) -> list[Finding]:
    found = []
    if "error" in facts["torch"]:
        why = f"torch cannot be imported: {facts['torch']['error']}"
        found.append(Finding("broken", why, "pip install --force-reinstall torch torchvision"))
    for name in facts["versions"]["missing"]:
        found.append(Finding("broken", f"{name} is not installed, and featot needs it", f"pip install {name}"))
    for problem in facts["plugins"]["problems"]:
        found.append(Finding("broken", problem, "update that distribution, or pip uninstall it"))
    for network, weights in facts["weights"].items():
        if weights["variable_set"] and not weights["found"]:
            why = f"{weights['variable']} names {weights['variable_set']}, and no such file is there"
            found.append(
                Finding("broken", why, f"name the file with the weights of {network}, or unset the variable")
            )
    return found


def _slow(facts: Mapping[str, Any]) -> list[Finding]:
    machine, torch = facts["machine"], facts["torch"]
    if "error" in torch:
        return []
    found = []
    cores, threads = machine["cores"], torch["threads"]
    limited = machine["cgroup_cores"] is not None and cores < machine["cores_present"]
    whose = " that its control group grants" if limited else ""
    if threads > cores:
        why = f"torch uses {threads} threads on {cores} core{'s' * (cores > 1)}{whose}: they wait for each other"
        found.append(Finding("slow", why, f"export OMP_NUM_THREADS={cores}"))
    elif 2 * threads < cores:  # half of them is what torch itself takes where two share one unit
        names = [name for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if name in machine["environment"]]
        why = f"torch uses {threads} of {cores} cores" + (f", as {names[0]} says" if names else "")
        found.append(Finding("slow", why, f"export OMP_NUM_THREADS={cores}, unless others work here"))
    for name, value in machine["environment"].items():
        if _spins(name, value):
            why = f"{name}={value}: threads that wait keep their core busy, and two runs at once crawl"
            found.append(Finding("slow", why, f"unset {name}"))
    if torch["cpu_capability"] == "DEFAULT" and platform.machine().lower() in ("x86_64", "amd64"):
        why = "this CPU has no AVX2, or ATEN_CPU_CAPABILITY hides it: products take several times as long"
        found.append(Finding("slow", why, "unset ATEN_CPU_CAPABILITY, or use another machine or a GPU"))
    if torch["gpu_unused"]:
        found.append(Finding("slow", torch["gpu_unused"], "install the torch of https://pytorch.org for its driver"))
    if machine["load"] is not None and machine["load"] > max(1.0, 0.75 * cores):
        why = f"the load is {machine['load']:.1f} on {machine['cores_present']} cores: others work here too"
        found.append(Finding("slow", why, "wait for them, or give each run its share with OMP_NUM_THREADS"))
    free = [size for size in (machine["memory_free"], machine["cgroup_memory"]) if size is not None]
    if free and min(free) < _SCARCE:
        why = f"only {min(free) / 2**20:.0f} MiB of memory are free: larger images will swap, or be refused"
        found.append(Finding("slow", why, "close other programs, or use a smaller --size"))
    return found


def _notes(facts: Mapping[str, Any]) -> list[Finding]:
    found = []
    if "error" in facts["faiss"] and "error" not in facts["torch"]:
        why = f"faiss cannot be used ({facts['faiss']['error']}); torch's own search, the faster on a CPU, needs none"
        found.append(Finding("note", why, "pip install faiss-cpu, for -o ot.backend=faiss"))
    for name, (purpose, remedy) in _OPTIONAL.items():
        if facts["versions"]["optional"][name] is None:
            found.append(Finding("note", f"{name} is not installed; {purpose} needs it", remedy))
    for network, weights in facts["weights"].items():
        if not weights["found"] and not weights["variable_set"]:
            why = f"no weights of {network} here: they are fetched when they are first needed"
            found.append(
                Finding("note", why, f"put them at {weights['path']}, or name them in {weights['variable']}")
            )
    return found


def _spins(name: str, value: str) -> bool:
    if name == "OMP_WAIT_POLICY":
        return value.lower() == "active"
    if name == "GOMP_SPINCOUNT":
        return value.lower() in ("infinity", "infinite") or (value.isdigit() and int(value) >= _SPINS)
    return name == "KMP_BLOCKTIME" and value.lower() == "infinite"


def _versions() -> dict[str, Any]:
    """Of Python, featot and what it needs; "optional": of what it can use; "missing": what it needs and has not."""
    found: dict[str, Any] = {"python": platform.python_version(), "featot": featot.__version__}
    missing = []
    try:
        needed = metadata.requires("featot") or []
    except metadata.PackageNotFoundError:  # run from a checkout
        needed = []
    for line in needed:
        if "extra ==" in line or line.startswith(("faiss", "tomli", "llvmlite")):
            continue  # not everywhere: faiss and llvmlite are told of below, tomli is for Python 3.10
        name = re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]
        version = _version(name)
        if version is None:
            missing.append(name)
        found[name] = version
    return found | {"optional": {name: _version(name) for name in _OPTIONAL}, "missing": missing}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _torch() -> dict[str, Any]:
    """Threads, instructions, speed and devices; or the error where it cannot be imported."""
    try:
        import torch
    except Exception as error:  # a library that does not fit may fail in any way
        return {"error": _one_line(error)}
    devices = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        devices.append({"name": f"cuda:{number}", "model": properties.name, "memory": properties.total_memory})
    unused = None
    if not devices and Path("/dev/nvidia0").exists():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        unused = f"there is a GPU, but torch, built {built}, cannot use it"
    return {
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gflops": _speed(torch),
        "cuda": torch.version.cuda,
        "devices": devices,
        "default_device": "cuda" if devices else "cpu",
        "gpu_unused": unused,
    }


def _speed(torch: Any) -> float:
    """Billions of float32 operations a second, in products such as those of the search."""
    x, y = torch.rand(2048, 64), torch.rand(64, 2048)
    x @ y  # the first wakes the threads
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        x @ y
        seconds.append(time.perf_counter() - start)
    return round(2 * 2048 * 2048 * 64 / min(seconds) / 1e9, 1)


def _faiss() -> dict[str, Any]:
    """Its version, whether it is built for GPUs and how many it sees; or the error."""
    from featot.ot.search import faiss_gpus

    try:
        gpus = faiss_gpus()
    except Exception as error:  # a GPU build without its CUDA libraries
        return {"error": _one_line(error)}
    return {
        "version": _version("faiss-gpu") or _version("faiss-cpu"),
        "built_for_gpu": gpus is not None,
        "gpus": gpus,
    }


def _weights() -> dict[str, Any]:
    """For each network the file that would be taken, whether it is there, and where it would be looked for."""
    found = {}
    for network, (file, variable) in WEIGHTS.items():
        home = os.environ.get("TORCH_HOME", Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch"))
        path = Path(home, "hub", "checkpoints", file).expanduser()  # as torch.hub.get_dir has it
        named = os.environ.get(variable)
        found[network] = {
            "found": Path(named or path).is_file(),
            "path": str(named or path),
            "variable": variable,
            "variable_set": named,
        }
    return found


def _plugins(registry: Registry, *, load: bool) -> dict[str, Any]:
    """How many of each kind there are, whose they are, and why some cannot be used."""
    problems = [str(problem) for problem in registry.problems]
    for registered in registry.all() if load else ():
        try:
            registered.load()
        except Exception as error:
            problems.append(str(error))
    return {
        "kinds": {kind: len(registry.names(kind)) for kind in KINDS},
        "owners": sorted({f"{registered.owner} {registered.version}" for registered in registry.all()}),
        "problems": problems,
    }


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
