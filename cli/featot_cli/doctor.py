"""`featot doctor`: what is installed, what this machine offers, what is slow and why."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from featot_cli.main import LazyRegistry, pass_registry

_COLOURS = {"broken": "red", "slow": "yellow", "note": None}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON: all facts and findings.")
@pass_registry
def doctor(lazy: LazyRegistry, /, as_json: bool) -> None:
    """Tell what is installed, what this machine offers, what is slow here and why, with the remedy of each.

    The exit code is 1 if something is broken, and 0 otherwise, however slow.

    \b
    featot doctor
    featot doctor --json
    """
    # Imported here, with torch later on: --help does not wait for it.
    from featot.doctor import diagnose

    found = diagnose(lazy.registry)
    if as_json:
        findings = [dataclasses.asdict(finding) for finding in found.findings]
        click.echo(json.dumps({"ok": not found.broken, "findings": findings, "facts": found.facts}, indent=1))
    else:
        for name, text in _lines(found.facts):
            click.echo(f"{click.style(f'{name:<9}', bold=True)} {text}")
        for finding in found.findings:
            click.echo()
            click.echo(f"{click.style(f'{finding.level:<9}', fg=_COLOURS[finding.level], bold=True)} {finding.what}")
            click.echo(f"{'':<9} remedy: {finding.remedy}")
        click.echo()
        click.echo("something is broken" if found.broken else "nothing is broken")
    if found.broken:
        raise click.exceptions.Exit(1)


def _lines(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What each group of facts comes to, a line or two of text."""
    versions, machine, torch, faiss = (facts[name] for name in ("versions", "machine", "torch", "faiss"))
    named = {name: version for name, version in versions.items() if isinstance(version, str)}
    first = ("featot", "python", "torch", "torchvision", "numpy", "click")
    yield "versions", ", ".join(f"{name} {named[name]}" for name in first if name in named)
    optional = (f"{name} {version or 'missing'}" for name, version in versions["optional"].items())
    yield "optional", ", ".join(optional)
    quota = f", {machine['cgroup_cores']:g} granted by the control group" if machine["cgroup_cores"] else ""
    load = "" if machine["load"] is None else f"; load {machine['load']}"
    yield "machine", f"{machine['cpu']}; {machine['cores']} of {machine['cores_present']} cores{quota}{load}"
    limit = f", {_size(machine['cgroup_memory'])} granted by the control group" if machine["cgroup_memory"] else ""
    yield "memory", f"{_size(machine['memory_free'])} free of {_size(machine['memory'])}{limit}"
    if "error" not in torch:
        devices = [f"{device['name']} {device['model']} {_size(device['memory'])}" for device in torch["devices"]]
        yield "devices", ", ".join(["cpu", *devices]) + f"; --device auto is {torch['default_device']}"
        speed = f"{torch['gflops']:g} GFLOP/s in products, {torch['cpu_capability']}"
        yield "threads", f"{torch['threads']} of torch; {speed}" + _variables(machine["environment"])
    if "error" not in faiss:
        gpu = "without GPU" if not faiss["built_for_gpu"] else f"for GPUs, of which it sees {faiss['gpus']}"
        yield "faiss", f"{faiss['version'] or 'of unknown version'}, built {gpu}"
    for network, weights in facts["weights"].items():
        yield "weights", f"{network}: {weights['path'] if weights['found'] else 'none'}"
    counts = ", ".join(f"{count} {kind}" for kind, count in facts["plugins"]["kinds"].items())
    yield "plugins", f"{counts}; of {', '.join(facts['plugins']['owners']) or 'nobody'}"


def _variables(environment: Mapping[str, str]) -> str:
    return "".join(f"; {name}={value}" for name, value in environment.items())


def _size(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**30:.1f} GiB"
