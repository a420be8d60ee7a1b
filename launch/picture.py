"""Draws the pipeline, the picture in README.md, from the cost model: python -m launch.picture"""

from pathlib import Path

import matplotlib.pyplot as plt

from pipar_rpc.results.gantt import draw, legend
from pipar_rpc.timing.stage_recurrence import StageTimes, iteration_seconds, schedule

# Seconds for a whole mini-batch of 100 CIFAR-10 images: VGG5 cut after its first unit, whose activation of
# 3.28 MB takes 2.62 s up and 1.05 s down over 4G (10/25 Mbit/s); computing times are round numbers of the
# size that a weak device needs.
WHOLE_BATCH = StageTimes(0.9, 2.62, 0.12, 0.18, 1.05, 1.3)


def micro_batch(num_micro_batches: int) -> StageTimes:
    return StageTimes(*(seconds / num_micro_batches for seconds in vars(WHOLE_BATCH).values()))


def main() -> None:
    counts = (1, 6)
    figure, rows = plt.subplots(len(counts), 1, figsize=(9, 4.6), sharex=True, layout="constrained")
    for axes, count in zip(rows, counts, strict=True):
        times = micro_batch(count)
        spans = [span for span in schedule(times, count) if span.end > span.start]
        kind = "split learning: N = 1" if count == 1 else f"PiPar: N = {count} micro-batches"
        draw(axes, spans, f"{kind}, {iteration_seconds(times, count):.2f} s per iteration")
    rows[-1].set_xlabel("seconds")
    figure.legend(handles=legend(()), loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    figure.savefig(Path(__file__).parent / "pipeline.png", dpi=130)


if __name__ == "__main__":
    main()
