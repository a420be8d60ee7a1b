"""The documentation: links lead somewhere, tables match the code, commands compose, examples run."""

import ast
import re
import runpy
import shlex
import textwrap
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from pipar_rpc import hydra_compose
from pipar_rpc.base.dotted import Choice
from pipar_rpc.base.microbatch import Part
from pipar_rpc.compression.coding import Coding, CodingSpec
from pipar_rpc.compression.registry import CodecSpec
from pipar_rpc.models import CUSTOM, ModelSpec, Norm, build_model
from pipar_rpc.plan.load import for_device, load
from pipar_rpc.plan.schema import Config
from pipar_rpc.privacy.registry import build_cut_privacy, check_own
from pipar_rpc.privacy.spec import PrivacySpec
from pipar_rpc.results.columns import markdown

ROOT = Path(__file__).parents[1]
README, DOCS = ROOT / "README.md", ROOT / "docs"
EXAMPLES = DOCS / "examples"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
INLINE = re.compile(r"`([^`]+)`")
ELIDED = "..."  # in a command line: "the other arguments"
# Plugins that the project does not install, with their keys.
PLUGINS = ("hydra/sweeper=optuna", "hydra.sweeper.direction=maximize", "hydra.sweeper.n_trials=20")
LEFT_OUT = (ELIDED, *PLUGINS)


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def is_code(line: str) -> bool:
    return line.startswith("    ")


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub and PyPI make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert len(set(slugs)) == len(slugs), f"{page_name(page)} has two headings of one name"
    return set(slugs)


def links(page: Path) -> list[str]:
    prose = "\n".join(line for line in page.read_text().splitlines() if not is_code(line))
    return [target for target in LINK.findall(prose) if not target.startswith("https://")]


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_to_files_and_headings(page):
    for target in links(page):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.is_file(), f"{target}: no such file"
        if anchor:
            assert anchor in anchors(file), f"{target}: no such heading"


def test_the_readme_is_short_and_leads_to_every_page():
    assert len(README.read_text().splitlines()) <= 150
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in links(README)}
    assert linked >= set(DOCS.glob("*.md"))


def rows(page: Path, columns: str) -> list[list[str]]:
    """Cells of all tables of a page whose headings begin with `columns`."""
    found = []
    lines = iter(page.read_text().splitlines())
    for line in lines:
        if line.startswith(columns):
            body = list(takewhile(lambda text: text.startswith("|"), lines))[1:]
            found += [[cell.strip() for cell in re.split(r"(?<!\\)\|", text)[1:-1]] for text in body]
    return found


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by their full keys; empty sections, in which any key may be set, are values too."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= (
            flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name: value}
        )
    return found


def default_values() -> dict[str, Any]:
    """All keys that users may set, with their values in the default experiment."""
    composed, schema = hydra_compose.compose([])[0], OmegaConf.structured(Config)
    settings = flat(OmegaConf.to_container(composed, enum_to_str=True))
    assert settings.keys() == flat(OmegaConf.to_container(schema)).keys()
    raw = yaml.safe_load((ROOT / "conf/config.yaml").read_text())
    groups = {
        key: choice for entry in raw["defaults"] if isinstance(entry, dict) for key, choice in entry.items()
    }
    folders = {f"hydra.{kind}.dir": raw["hydra"][kind]["dir"] for kind in ("run", "sweep")}
    return settings | groups | folders


def test_the_table_of_keys_is_that_of_the_schema():
    table = [(key.strip("`"), default) for key, default, _ in rows(DOCS / "configuration.md", "| key |")]
    expected = default_values()
    assert sorted(key for key, _ in table) == sorted(expected)
    for key, default in table:
        assert default.startswith("`"), key
        text = default.strip("`")
        shown = text if "${" in text else yaml.safe_load(text)
        assert shown == expected[key], key


def test_the_table_of_columns_is_that_of_the_results():
    lines = (DOCS / "results.md").read_text().splitlines()
    start = lines.index("| column | unit | devices | meaning | TensorBoard |")
    table = list(takewhile(lambda line: line.startswith("|"), lines[start:]))
    assert table == markdown(), "python -m pipar_rpc.results.columns prints the table"


def test_every_measurement_says_its_command_machine_and_date():
    sections = re.split(r"^## ", (DOCS / "measurements.md").read_text(), flags=re.MULTILINE)[1:]
    for section in sections:
        if not section.startswith("What the paper published"):
            assert "| command | machine | date |" in section, section.splitlines()[0]


def code_lines(page: Path) -> list[str]:
    """Lines of blocks, with continued ones joined, and code within sentences."""
    lines = page.read_text().splitlines()
    blocks = "\n".join(line.strip() for line in lines if is_code(line)).replace("\\\n", " ")
    return blocks.splitlines() + [
        code for line in lines if not is_code(line) for code in INLINE.findall(line)
    ]


def commands(page: Path) -> list[str]:
    starts = ("torchrun ", "python -m ")
    return [line for line in code_lines(page) if line.startswith(starts) and " -m " in line]


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_compose(page):
    for line in commands(page):
        words = shlex.split(line, comments=True)
        module, arguments = words[words.index("-m") + 1], words[words.index("-m") + 2 :]
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), line
        if module == "launch.netns":
            arguments = arguments[arguments.index("--") + 1 :]
        elif module != "pipar_rpc":
            continue
        arguments = [argument for argument in arguments if argument not in LEFT_OUT]
        raw, _ = hydra_compose.compose(arguments)
        load(raw)
        for device in raw.devices.overrides:
            for_device(raw, int(device))


def test_there_are_commands_to_compose():
    assert sum("-m pipar_rpc " in line for page in PAGES for line in commands(page)) > 20


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_run(path):
    assert ast.get_docstring(ast.parse(path.read_text()))
    runpy.run_path(str(path))


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_python_in_the_pages_is_that_of_the_examples(page):
    examples = [path.read_text() for path in EXAMPLES.glob("*.py")]
    for block in re.findall(r"(?:^    .*\n|^\n(?=    |\n    ))+", page.read_text(), flags=re.MULTILINE):
        code = textwrap.dedent(block).strip("\n") + "\n"
        if code.startswith(("from ", "import ")):
            assert any(example.endswith(code) for example in examples), code


def test_a_network_of_your_own(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    network = build_model(ModelSpec(CUSTOM, Norm.batch, 3, 32, 10, "own_network.build", {"width": 4}))
    images = torch.rand(2, 3, 32, 32)
    for split_point in range(1, len(network) + 1):
        assert network[split_point:](network[:split_point](images)).shape == (2, 10)


def test_a_codec_of_your_own(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    coding = Coding(CodingSpec(CodecSpec(CUSTOM, "own_codec.SignAndMean")))
    values = torch.randn(3, 5, 7)
    sent = coding.encode_activation(Part(1, 0, 1, 1, 1.0), values)
    assert sent.payload.numel() == 3 * (4 + 5)  # 35 signs in 5 bytes, and a float
    means = values.abs().mean(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(coding.decode_activation(sent, torch.device("cpu")), values.sign() * means)


def test_a_privacy_mechanism_of_your_own(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    own = Choice(target="own_cut.RandomMask", args={"share": 0.25})
    check_own(own, torch.rand(4, 3), (50,), adds_loss=True)
    privacy, values = build_cut_privacy(PrivacySpec(cut=own)), torch.ones(40, 50)
    found = privacy.release(Part(1, 0, 1, 1, 1.0), values, values).values
    assert set(found.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert found.mean() == pytest.approx(1.0, abs=0.05)
