"""Data sets of the user's own: what a plan makes of them."""

from tests.support.configuration import message, plan

TARGET = "data._target_=tests.support.own_data"
MODEL = ("model=custom", "model._target_=tests.support.own_network.vectors")
REGRESSION = ("data=custom", f"{TARGET}.regression", *MODEL, "loss=mse", "batch_size=4", "num_devices=2")


def test_the_network_takes_its_input_from_the_data():
    made = plan(*REGRESSION)
    job = made.devices[0]
    assert job.transform is None
    assert (job.model.channels, job.model.image_size, job.model.num_classes) == (0, 0, 0)
    assert job.model.sample.shape == (5,)
    assert made.network.units[-1].output_shape == ()
    tokens = plan(
        *("data=custom", f"{TARGET}.tokens", "model=custom", "batch_size=4", "num_devices=2"),
        "model._target_=tests.support.own_network.for_tokens",
    )
    assert (tokens.devices[0].model.num_classes, tokens.network.units[-1].output_shape) == (5, (5, 6))


def test_square_images_with_classes_go_into_the_packages_networks():
    images = ("data=custom", f"{TARGET}.images", "model=vgg5", "batch_size=4", "num_devices=2")
    made = plan(*images)
    spec = made.devices[0].model
    assert (spec.channels, spec.image_size, spec.num_classes, spec.input) == (3, 8, 2, None)
    line = message(*images, "data.num_classes=1")
    assert "test has the label 1: the server knows classes 0..0 (data.num_classes says" in line


def test_what_cannot_be_is_one_line():
    none = (
        "data._target_=null: must be the dotted name of a function or class with data.name=custom, else null"
    )
    assert message("data=custom") == none
    assert message("data.args.x=1") == "data.args={'x': 1}: must be empty but with data=custom"
    given = "data.args.split=test: must be left out: it is given for each split"
    assert message(*REGRESSION, "data.args.split=test") == given
    crop = "data.random_crop=2: must be 0 with data=custom, which has transforms and sizes of its own"
    assert message(*REGRESSION, "data.random_crop=2") == crop
    assert message(*REGRESSION, "model=vgg5", "model._target_=null").startswith(
        "model.name=vgg5: must be custom"
    )
    shards = message(*REGRESSION, "partition=shards")
    assert shards.startswith("partition.name=shards: must be iid, sizes, file, own: the labels")
    assert "nll cannot take outputs" in message(*REGRESSION, "loss=nll")


def test_validation_samples_of_the_training_split():
    made = plan("data.val_from=train", "data.val_size=38", "data.test_size=null")
    assert (made.devices[0].data.val_from, made.devices[0].data.val_size) == ("train", 38)
    for kind in ("own", "file"):
        keys = (f"partition.name={kind}", "data=imagefolder", "data.val_from=train", "partition.path=x")
        assert message(*keys).startswith(f"data.val_from=train: must be test with partition={kind}, which")
    most = "data.val_size=1438: must be 0..1437 (digits has 1438 training samples)"
    assert message("data.val_from=train", "data.val_size=1438") == most
