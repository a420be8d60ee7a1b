"""Codecs over RPC: every strategy against its plain loop with the same quantisers, in double precision."""

import pytest
import torch

from pipar_rpc.compression.coding import Coding, CodingSpec
from pipar_rpc.compression.models import build_model_codec
from pipar_rpc.compression.registry import AS_IT_IS, CodecSpec
from tests.support import references
from tests.support.loops import assert_close
from tests.support.overrides import SMALL, sweep_of
from tests.support.references import EPOCHS, Codecs
from tests.support.results import job_dirs, rows_of

BF16, INT8, INT4 = CodecSpec("bf16"), CodecSpec("int8"), CodecSpec("int4")
TOPK = CodecSpec("topk", args={"ratio": 0.2, "random_share": 0.3})
JOBS = {  # strategy, sfl.server, P, N; activations and gradients of device 1 and of device 2, models
    "fl_bf16": ("fl", "replicated", 5, 1, (AS_IT_IS,) * 2, (AS_IT_IS,) * 2, BF16),
    "fl_int8": ("fl", "replicated", 5, 1, (AS_IT_IS,) * 2, (AS_IT_IS,) * 2, INT8),
    "sl": ("sl", "replicated", 2, 1, (INT8, INT8), (INT8, INT4), INT8),
    "sl_bf16": ("sl", "replicated", 1, 1, (AS_IT_IS,) * 2, (BF16, BF16), BF16),
    "sfl": ("sfl", "replicated", 3, 1, (INT8, INT8), (INT8, INT8), INT8),
    "shared": ("sfl", "shared", 2, 1, (INT4, INT8), (TOPK, TOPK), INT8),
    "pipar_int8": ("pipar", "replicated", 1, 5, (INT8, INT8), (INT8, INT8), INT8),
    "pipar_mixed": ("pipar", "replicated", 2, 3, (TOPK, INT8), (BF16, INT4), AS_IT_IS),
    "pipar_topk": ("pipar", "replicated", 2, 10, (TOPK, TOPK), (TOPK, TOPK), BF16),
    "again": ("pipar", "replicated", 2, 10, (TOPK, TOPK), (TOPK, TOPK), BF16),
    "labels_pipar": ("pipar", "replicated", 1, 5, (TOPK, TOPK), (INT8, INT4), INT8),  # which stay on devices
    "labels_shared": ("sfl", "shared", 2, 1, (INT8, INT8), (TOPK, INT8), INT8),
}
EXACT_BYTES = 2 * references.SAMPLES * 32 * 4 * 4 * 8  # of activations after the first unit, in an epoch


def chosen(key, spec):
    return (f"{key}.name={spec.name}", *(f"{key}.args.{name}={value}" for name, value in spec.args.items()))


def options(strategy, server, point, count, first, second, models):
    second = zip(("activations", "gradients"), second, strict=True)
    return (
        *("model=vgg5", "model.norm=group", f"strategy={strategy}", f"sfl.server={server}"),
        *(f"pipeline.split_point={point}", f"pipeline.num_micro_batches={count}"),
        *chosen("compression.activations", first[0]),
        *chosen("compression.gradients", first[1]),
        *chosen("compression.models", models),
        *(o for what, own in second for o in chosen(f"devices.overrides.2.compression.{what}", own)),
    )


@pytest.fixture(scope="module")
def jobs(module_processes):
    own = {f"{number:02}": options(*job) for number, job in enumerate(JOBS.values())}
    for number in (number for number, job in enumerate(JOBS) if job.startswith("labels")):
        own[f"{number:02}"] += ("pipeline.labels=device",)
    overrides = [option for option in SMALL if not option.startswith("epochs")]
    overrides += [f"epochs={EPOCHS}", f"devices.overrides.2.batch_size={references.BATCH_SIZES[1]}"]
    arguments = [*sweep_of(module_processes.directory, own), *overrides]
    done = module_processes.training(3, *arguments, module="tests.support.float64_without_pictures")
    assert done.code == 0, done.err
    return dict(zip(JOBS, (path for _, path in sorted(job_dirs(module_processes).items())), strict=True))


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("job", JOBS)
def test_each_strategy_equals_its_plain_loop_with_the_same_quantisers(jobs, job):
    strategy, server, point, count, first, second, models = JOBS[job]
    codings = [Coding(CodingSpec(*own), 0, rank) for rank, own in enumerate((first, second), start=1)]
    codecs = Codecs(
        (None, None) if strategy == "fl" else codings, build_model_codec(models, "compression.models")
    )
    cut = {"split_point": point, "codecs": codecs, "tail": int(job.startswith("labels"))}
    match strategy, server:
        case "sl", _:
            reference = references.split(**cut)
        case "sfl", "shared":
            reference = references.split_federated_with_one_server_half(**cut)
        case _:
            reference = references.federated(num_micro_batches=count, **cut)
    assert_close(torch.load(jobs[job] / "model.pt"), reference, 1e-9)


def test_runs_repeat_bit_for_bit(jobs):
    first, second = (torch.load(jobs[job] / "model.pt") for job in ("pipar_topk", "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_payloads_are_charged(jobs):
    """int8 of float64: a byte for a value and a scale for each of 32 channels; labels as they are."""
    for row in rows_of(jobs["pipar_int8"]):
        samples, models = 2 * references.SAMPLES, int(row["model_bytes"])
        coded = EXACT_BYTES // 8 + samples * 32 * 4
        assert int(row["uplink_bytes"]) == coded + samples * 8 + models
        assert int(row["downlink_bytes"]) == coded + models
