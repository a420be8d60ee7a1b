"""The table of leakage and its pictures."""

import csv

import numpy as np

from pipar_rpc.results.leakage import Leakage, as_table, write_csv
from pipar_rpc.results.leakage_figures import leakage_figure, reconstructions_figure

ROW = Leakage(1, "none", 0.0, None, 0.9, 0.5, 0.01, 0.06, 0.7, 0.2, 0.8, 1.0, 0.1, 0.6, 2.75)
NOISY = ROW._replace(noise=0.5, max_norm=12.345678, mse=0.05, cut_label_accuracy=None)


def test_the_table_shows_what_was_measured():
    headings, _, first, second, nothing = as_table([ROW, NOISY])
    assert len(headings) == len(first) == len(second)
    assert " ".join(first.split()) == "1 none 0 0.900 0.500 0.0100 0.700 0.800 1.000 0.600 2.750"
    assert " ".join(second.split()) == "1 none 0.5 12.3 0.900 0.500 0.0500 0.700 1.000 0.600 2.750"
    assert nothing == "who sees nothing: MSE 0.0600, SSIM 0.200 (mean image), labels 0.100"
    assert as_table([ROW._replace(label_chance=None)])[-1].endswith("(mean image)")


def test_the_file_has_every_column(tmp_path):
    write_csv([ROW, NOISY], tmp_path / "leakage.csv")
    with (tmp_path / "leakage.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert tuple(first) == Leakage._fields
    assert (first["max_norm"], second["max_norm"], second["cut_label_accuracy"]) == ("", "12.3457", "")


def test_a_line_for_each_way_and_panels_without_figures_stay_empty():
    rows = [row._replace(split_point=point) for row in (ROW, NOISY) for point in (1, 3)]
    panels = leakage_figure(rows, "vgg5").axes
    lines = {
        axes.get_title(): [line for line in axes.lines if line.get_linestyle() == "-"] for axes in panels
    }
    assert {name: len(own) for name, own in lines.items()} == {
        "reconstruction: SSIM": 2,
        "distance correlation": 2,
        "labels from gradients at the cut": 1,
        "iteration, s (predicted)": 2,
    }
    assert list(lines["reconstruction: SSIM"][0].get_xdata()) == [1, 3]


def test_reconstructions_stand_below_their_originals():
    images = np.random.default_rng(0).random((3, 8, 8, 1))
    figure = reconstructions_figure(images, [(ROW, images), (NOISY._replace(compression="int8"), images)])
    names = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
    assert names == ["original", "P = 1, noise 0", "P = 1, int8, noise 0.5"]
    assert len(figure.axes) == 9
