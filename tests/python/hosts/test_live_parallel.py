"""A live model that two processes share (tensor parallelism) is the model that one has."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
import transformers
from conftest import FAMILIES
from processes import run_ranks

WORKER = '''
import sys
import torch, torch.distributed as dist, transformers
import cna
from cna import distributed
from conftest import PROMPTS, make_tokenizer
from live_oracle import close, equals_plain_hooks
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

def load(name, **options):
    return transformers.AutoModelForCausalLM.from_pretrained(f"{sys.argv[1]}/{name}", **options)


def by_plan(name, **plan):
    """torch's own styles, on the MLPs alone."""
    mesh = dist.init_device_mesh("cpu", (2,))
    hf = load(name)
    for name, module in list(hf.named_modules()):
        if name.endswith("mlp"):
            parallelize_module(module, mesh, plan)
    return hf


try:
    shared = {"distributed_config": transformers.distributed.DistributedConfig(tp_size=2)}
    uneven = "uneven"
except (AttributeError, TypeError):  # 5.0, which cannot run a width that does not divide
    shared, uneven = {"tp_plan": "auto"}, "even"


def by_transformers(name):
    return load(name, **shared)


def same_everywhere(x):
    other = [torch.empty_like(x) for _ in range(2)]
    dist.all_gather(other, x.contiguous())
    return torch.equal(other[0], other[1])


def check(hf, name, down):
    plain = load(name)
    parts = [m for n, m in hf.named_modules() if n.endswith(down)]
    wholes = [m for n, m in plain.named_modules() if n.endswith(down)]
    assert parts[0].weight.to_local().numel() < wholes[0].weight.numel()
    model, reference = cna.live(hf, make_tokenizer()), cna.live(plain, make_tokenizer())
    assert model.ranks == 2 and model.core.has_cache and model.width == reference.width
    equals_plain_hooks(model, plain, wholes)
    assert model.core.weights_hash == reference.core.weights_hash != ""
    for site in ("neuron", "mlp_output", "residual"):
        got = model.record(PROMPTS, site=site)
        assert same_everywhere(got) and close(got, reference.record(PROMPTS, site=site), 1e-4), site
    got, expected = (cna.contributions(m, PROMPTS[:4], PROMPTS[4:]) for m in (model, reference))
    assert same_everywhere(got) and close(got, expected, 1e-4)  # from weights in parts
    vector = cna.Intervention.add("residual", 1, torch.ones(32), [0.7])
    circuit = cna.discover(model, PROMPTS[:4], PROMPTS[4:], k=9)  # and universal
    means = reference.record(PROMPTS).mean(0)
    for what in (vector, cna.Intervention.mean_ablate(circuit, means)):
        with model.steer(what), reference.steer(what):
            assert close(model.logits(PROMPTS), reference.logits(PROMPTS), 1e-4)
    strengths = [0.0, -1.0] * 4  # rows unlike each other
    with model.steer(circuit, strengths), reference.steer(circuit, strengths):
        assert model.generate(PROMPTS, max_new_tokens=6) == reference.generate(
            PROMPTS, max_new_tokens=6
        )
    drawn = model.generate(PROMPTS, max_new_tokens=6, temperature=1.0, seed=3, return_tokens=True)
    padded = torch.tensor([row + [0] * (6 - len(row)) for row in drawn])
    assert same_everywhere(padded)
    return model


def error_of(call):
    try:
        call()
    except (ValueError, RuntimeError) as error:
        return str(error)
    return "no error"


def errors(model):
    """What would deal prompts or files to processes that hold one model together."""
    task = cna.tasks.load("capability-refusal")
    circuit = cna.discover(model, PROMPTS[:4], PROMPTS[4:], k=9, universal=None)
    sides = PROMPTS[:4], PROMPTS[4:]
    shared = "expected a whole model in each process, got one shared by 2; call cna."
    for call, named in (
        (lambda: distributed.discover_distributed(model, *sides, k=3), f"{shared}discover in all"),
        (lambda: distributed.universal_neurons_distributed(model), f"{shared}universal_neurons in"),
        (lambda: distributed.sweep_distributed(model, circuit, task, out="run"), f"{shared}sweep in"),
        (lambda: cna.sweep(model, circuit, task, out="run"), "sweep: expected no out= with a model"),
        (lambda: model.to("cpu"), "Model.to: expected a model in one place, got one shared by 2"),
    ):
        assert named in error_of(call), error_of(call)


def outputs():
    """A down projection that is split by its outputs."""
    hf = by_plan("even", down_proj=ColwiseParallel())
    message = error_of(lambda: cna.live(hf, None))
    assert "whole or split by its inputs (row-parallel), got S" in message, message


check(by_transformers("even"), "even", "down_proj")
print("good even")
model = check(by_transformers(uneven), uneven, "down_proj")
print("good uneven")
errors(model)
print("good errors")
styles = {"dense_h_to_4h": ColwiseParallel(), "dense_4h_to_h": RowwiseParallel()}
check(by_plan("bias", **styles), "bias", "dense_4h_to_h")
print("good bias")
outputs()
print("good outputs")
dist.destroy_process_group()
'''


def save(family: str, folder: Path, **settings: int) -> Path:
    """A random model of a family, with other sizes where they are named."""
    name, usual = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**usual | settings)
    hf = getattr(transformers, f"{name}ForCausalLM")(config)
    for parameter in hf.parameters():
        parameter.data.mul_(3.0) if parameter.dim() > 1 else parameter.data.add_(0.1)
    hf.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> list[subprocess.CompletedProcess[str]]:
    """What two ranks ended with."""
    folder = tmp_path_factory.mktemp("parallel")
    save("llama", folder / "even")
    save("llama", folder / "uneven", intermediate_size=65)  # 33 neurons on one rank, 32 elsewhere
    save("gpt_neox", folder / "bias")
    script = folder / "worker.py"
    script.write_text(WORKER)
    here = str(Path(__file__).parents[1])
    return run_ranks(2, script, str(folder), timeout=400, PYTHONPATH=here)


@pytest.mark.parametrize("job", ["even", "uneven", "bias", "errors", "outputs"])
def test_two_processes_share_a_model(
    job: str, heard: list[subprocess.CompletedProcess[str]]
) -> None:
    for done in heard:
        assert f"good {job}" in done.stdout.splitlines(), done.stderr[-3000:]
