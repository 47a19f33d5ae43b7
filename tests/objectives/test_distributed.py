"""Two processes, one batch: each rank gets its slice of the gradient of all ranks' images."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch
import torch.distributed as dist

from invkit.methods.deepinversion import DeepInversionConfig, deep_inversion
from invkit.objectives import losses, priors
from invkit.objectives.batch_norm import BatchNormPenalty
from invkit.objectives.objective import Gradient, Objective

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch was built without gloo"
)

# Both ranks write what they found; the test compares it with one process that holds the joined batch.
SCRIPT = """
    import sys
    sys.path.insert(0, {tests!r})
    import torch
    import torch.distributed as dist
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    from invkit.testing import tiny_target
    from test_distributed import FORMS, SIZES, gradients, whole_run
    target = tiny_target(dtype=torch.float64)
    part = slice(0, SIZES[0]) if rank == 0 else slice(SIZES[0], None)
    found = {{form: gradients(target, part, form) for form in FORMS}} | {{"run": whole_run(target, part)}}
    torch.save(found, f"{{sys.argv[1]}}/{{rank}}.pt")
    dist.barrier()
    dist.destroy_process_group()
"""

SIZES = (7, 4)
CHUNKS = (None, 3, 1)
FORMS = {"norm": {}, "relative": {"per_image": 0.7, "tolerance": 0.1}}


def sample():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(sum(SIZES), 3, 8, 8, dtype=torch.float64, generator=generator), torch.arange(sum(SIZES)) % 4


def gradients(target, part, form):
    """The complete loss of these images, for each size of micro-batches: values and gradients."""
    images, labels = sample()
    penalty = BatchNormPenalty(target, form=form, first_layer_scale=3.0, **FORMS[form])
    terms = {"ce": (0.7, lambda b: losses.cross_entropy(b.outputs, b.references))}
    objective = Objective(
        network=target,
        terms=terms,
        references=labels[part],
        penalty=penalty,
        penalty_weight=0.3,
        priors={"roughness": (0.4, priors.roughness)} | priors.image_prior(0.02, 0.003),
    )
    with penalty.attached():
        return [Gradient(objective, micro_batch=m)(images[part]) for m in CHUNKS]


def whole_run(target, part):
    """Six steps of DeepInversion on these images."""
    images, labels = sample()
    config = DeepInversionConfig(
        steps=6, lr=0.02, jitter=0, flip=0.0, tv=0.01, batch_norm=0.5, micro_batch=3, low_resolutions=()
    )
    result = deep_inversion(target, labels[part], config, init=images[part])
    return {"images": result.images, "history": dict(result.history), "best_step": result.best_step}


@pytest.fixture
def double(make_target):
    return make_target(dtype=torch.float64)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "both.py"
    script.write_text(textwrap.dedent(SCRIPT.format(tests=str(request.path.parent))))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--nnodes", "1"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(script), str(folder)]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    # A group of its own, so that a hanging pair is ended as a whole.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, start_new_session=True
    ) as process:
        try:
            said, _ = process.communicate(timeout=180)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            pytest.fail("two ranks did not finish within 180 s")
    assert process.returncode == 0, said[-3000:]
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def close(a, b, tolerance):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("index", range(len(CHUNKS)), ids=lambda i: f"micro_batch={CHUNKS[i]}")
def test_each_rank_has_its_slice_of_the_global_gradient(ranks, double, index, form):
    values, gradient = gradients(double, slice(None), form)[0]
    parts = [rank[form][index] for rank in ranks]
    for part in parts:  # the values are those of the global batch on every rank
        close(part[0], values, 1e-12)
    close(torch.cat([part[1] for part in parts]), gradient, 1e-12)
    assert torch.equal(parts[0][0], parts[1][0])  # to the bit, so that all ranks decide alike


def test_the_gradient_is_not_that_of_each_rank_alone(ranks, double):
    for form in FORMS:
        alone = gradients(double, slice(0, SIZES[0]), form)[0][1]
        assert (ranks[0][form][0][1] - alone).abs().max() > 1e-4


def test_a_run_on_two_ranks_is_the_run_of_the_joined_batch(ranks, double):
    joined = whole_run(double, slice(None))
    runs = [rank["run"] for rank in ranks]
    close(torch.cat([r["images"] for r in runs]), joined["images"], 1e-8)
    for run in runs:
        assert run["best_step"] == joined["best_step"]
        for name, values in joined["history"].items():
            assert run["history"][name] == pytest.approx(values, rel=1e-6), name
    assert runs[0]["history"] == runs[1]["history"]
