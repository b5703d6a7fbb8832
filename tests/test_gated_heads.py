"""Heads of their own: gates, distributions, value heads. Against the published formulas, written by hand in
`published_heads.py`, and against the reference's own classes where its environment is there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.parity import difference, flips, load_rows, requests
from orchestrator.paths import CONF_DIR
from orchestrator.pin import pin_model
from tests import gated_checkpoints
from tests.conftest import ROOT
from workers import plugins, tiny_zoo
from workers.checkpoint import config_of, renderer_of
from workers.engines import transformers as engine
from workers.errors import ModelError
from workers.heads import before_first_pad, last_attended
from workers.protocol import Message, ModelSpec, Request
from workers.render import Rendered

FAMILIES = ("armorm", "qrm_llama3", "qrm_llama31", "ldl", "internlm2", "worldpm", "skywork_vl", "nemotron")
IN_THE_REFERENCE = tuple(family for family in FAMILIES if family != "nemotron")
PICKLED = ("ldl",)
STEP, LONGEST = 30, 4000
"""Every so many-th pair of the public half of RewardBench, without the few that are very long."""

FIXED: dict[str, dict[str, Any]] = {
    "ldl": {"width": 4096},
    "qrm_llama3": {"num_quantiles": gated_checkpoints.OBJECTIVES},
    "qrm_llama31": {"num_quantiles": gated_checkpoints.OBJECTIVES},
}
"""What the reference's classes do not leave open: the width of LDL's layers, as many quantiles as objectives."""

Build = Callable[..., Path]


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds a family's checkpoint, each once a session."""
    folder = tmp_path_factory.mktemp("headed")

    def make(family: str, **config: Any) -> Path:
        path = folder / "-".join([family, *(f"{key}-{value}" for key, value in sorted(config.items()))])
        return path if path.exists() else gated_checkpoints.build(path, family, **config)

    return make


def pinned(path: Path, family: str, **entry: Any) -> ModelSpec:
    allowed = {"allow_pickle": True} if family in PICKLED else {}
    return pin_model("tiny", {"path": str(path), "family": family, **allowed, **entry}, cuda=False).streams[0]


def conversation(prompt: str, response: str) -> Request:
    return Request("reward", (Message("user", prompt),), (response,))


def made_up(pairs: int) -> list[Request]:
    """Pairs of different lengths, chosen and rejected in turn."""
    texts = tiny_zoo.corpus()
    rows = [
        (texts[3 * at], texts[3 * at + 1][: 40 + 60 * at], texts[3 * at + 2][: 300 - 20 * at]) for at in range(pairs)
    ]
    return [conversation(prompt, response) for prompt, *responses in rows for response in responses]


ASKED = [
    *made_up(8),
    conversation("What is a prime?", ""),
    conversation("日本語", "\U0001f600 assistant\n\n"),
    conversation("Same.", "Same."),
    conversation("Same.", "Same."),
]


def scores(spec: ModelSpec, asked: list[Request]) -> list[float]:
    return [output.value for output in engine.load(spec).run(asked)]


def by_hand(family: str, spec: ModelSpec, asked: list[Request]) -> list[float]:
    """The published formula on the tokens that our engine sees."""
    import torch

    from tests.published_heads import PUBLISHED

    rows = [torch.tensor([row.ids]) for row in renderer_of(spec, config_of(spec, "reward")).render(asked)]
    model = PUBLISHED[family](Path(spec.path))
    with torch.inference_mode():
        if family == "worldpm":
            return [model(ids).item() for ids in rows]
        return [model(ids, attention_mask=torch.ones_like(ids)).item() for ids in rows]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_the_published_formula(family: str, build: Build) -> None:
    spec = pinned(build(family), family)
    ours, theirs = scores(spec, ASKED), by_hand(family, spec, ASKED)
    assert max(ours) - min(ours) > 0.1, "scores that hardly differ compare nothing"
    assert difference(ours, theirs) <= 1e-4
    assert flips(ours, theirs) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_score_does_not_depend_on_its_batch(family: str, build: Build) -> None:
    spec = pinned(build(family), family)
    alone = scores(spec, ASKED)
    for budget, order in ((20_000, 1), (2_000, -1)):
        batched = scores(replace(spec, token_budget=budget), ASKED[::order])[::order]
        assert batched == pytest.approx(alone, abs=1e-5, rel=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_offers_what_all_do(family: str) -> None:
    module = plugins.resolve("workers.families", family)
    assert (module.ENGINES, module.KIND, module.TIES, module.SCORING) == (("transformers",), "reward", "lose", {})
    assert isinstance(module.VERSION, str)
    assert callable(module.head)
    scalar = plugins.resolve("workers.families", "scalar")
    assert (module.wanted, module.values) == (scalar.wanted, scalar.values)


@pytest.fixture(scope="session")
def real(shared: Path) -> list[Request]:
    """Real pairs, chosen and rejected in turn."""
    rows = [
        row
        for row in load_rows(shared, STEP)
        if sum(len(row[key]) for key in ("prompt", "chosen", "rejected")) < LONGEST
    ]
    assert len(rows) >= 30
    return requests(rows)


@pytest.fixture(scope="session")
def reference(
    reference_venv: Path, real: list[Request], build: Build, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[float]]:
    """The reference's scores of the real pairs, each conversation alone, by family."""
    folder = tmp_path_factory.mktemp("reference")
    asked = [
        [{"role": "user", "content": one.prompt[0].content}, {"role": "assistant", "content": one.responses[0]}]
        for one in real
    ]
    jobs = {
        family: {"path": str(build(family, **FIXED.get(family, {}))), "conversations": asked}
        for family in IN_THE_REFERENCE
    }
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    command = [str(reference_venv / "bin" / "python"), str(ROOT / "tests" / "reference_heads.py")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [*command, str(folder / "jobs.json"), str(folder / "out.json")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, list[float]] = json.loads((folder / "out.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.reference
@pytest.mark.parametrize("family", IN_THE_REFERENCE)
def test_scores_equal_the_reference(
    family: str, real: list[Request], reference: dict[str, list[float]], build: Build
) -> None:
    entry = {"bos": "keep"} if family == "armorm" else {}
    ours, theirs = scores(pinned(build(family, **FIXED.get(family, {})), family, **entry), real), reference[family]
    assert max(ours) - min(ours) > 0.1, "scores that hardly differ compare nothing"
    assert difference(ours, theirs) <= 1e-4
    assert flips(ours, theirs) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_without_the_head_is_refused_in_one_line(
    family: str, build: Build, checkpoint: Callable[..., Path]
) -> None:
    """A plain classifier under the family's name."""
    with pytest.raises(ModelError) as caught:
        engine.load(pinned(checkpoint("llama"), family))
    assert "\n" not in str(caught.value)
    assert "model 'tiny'" in str(caught.value)
    assert "is not a" in str(caught.value)


def copied(path: Path, folder: Path, without: str = "", **config: Any) -> Path:
    """A checkpoint with other values in its configuration and without the tensors of a prefix."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(path, folder)
    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**values, **config}), encoding="utf-8")
    if without:
        tensors = load_file(folder / "model.safetensors")
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(without)}
        assert len(kept) < len(tensors)
        save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("family", "without"),
    [
        ("armorm", "regression_layer"),
        ("armorm", "gating.layers"),
        ("qrm_llama31", "gating.logit_scale"),
        ("qrm_llama3", "reward_transform_matrix"),
        ("worldpm", "score.2"),
        ("internlm2", "v_head"),
        ("internlm2", "model.layers.1.attention.wqkv"),
        ("armorm", "model.layers.1.mlp"),
    ],
)
def test_weights_that_the_checkpoint_lacks_are_named(family: str, without: str, build: Build, tmp_path: Path) -> None:
    path = copied(build(family), tmp_path / "cut", without)
    with pytest.raises(ModelError, match="it has no weights for"):
        engine.load(pinned(path, family))


def test_objectives_and_quantiles_must_fit(build: Build, tmp_path: Path) -> None:
    path = copied(build("qrm_llama31"), tmp_path / "other", num_quantiles=4)
    with pytest.raises(ModelError, match="95 regression outputs are not 19 objectives of 4"):
        engine.load(pinned(path, "qrm_llama31"))


def test_an_armorm_checkpoint_is_not_a_qrm_model(build: Build) -> None:
    with pytest.raises(ModelError, match="not a QRM model: its configuration has no num_quantiles"):
        engine.load(pinned(build("armorm"), "qrm_llama31"))


@pytest.mark.parametrize("family", ["armorm", "qrm_llama31"])
def test_a_conversation_without_the_header_is_one_line(family: str, build: Build) -> None:
    spec = pinned(build(family), family, chat_template="raw")
    with pytest.raises(ModelError, match=r"no assistant header .* check models\.tiny\.chat_template"):
        engine.load(spec).run(ASKED[:1])
    cut = pinned(build(family), family, max_length=16)
    with pytest.raises(ModelError, match=r"16 tokens holds no assistant header .* raise models\.tiny\.max_length"):
        engine.load(cut).run([conversation("q", "long " * 40)])


def test_the_gate_reads_the_last_header(build: Build) -> None:
    """A longer dialogue has several; the score with an earlier one would be another."""
    spec = pinned(build("armorm"), "armorm")
    turns = (Message("user", "One?"), Message("assistant", "Yes."), Message("user", "Two?"))
    asked = [Request("reward", turns, ("No.",))]
    assert scores(spec, asked) == pytest.approx(by_hand("armorm", spec, asked), abs=1e-5)


def test_a_pickled_head_needs_permission(build: Build, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"regression_layer\.pt .* is pickled; set models\.tiny\.allow_pickle=true"):
        engine.load(pinned(build("ldl"), "ldl", allow_pickle=False))
    folder = copied(build("ldl"), tmp_path / "half")
    (folder / "gating_layer.pt").unlink()
    with pytest.raises(ModelError, match=r"not a model of family 'ldl': it has no gating_layer\.pt"):
        engine.load(pinned(folder, "ldl"))


class Planted:
    """What a pickle can do when it is loaded as a program."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("planted").touch, ())


def test_a_pickled_head_runs_no_code(build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    folder = copied(build("ldl"), tmp_path / "evil")
    torch.save({"network.0.weight": Planted()}, folder / "gating_layer.pt")
    with pytest.raises(ModelError, match="cannot read the tensors"):
        engine.load(pinned(folder, "ldl"))
    assert not Path("planted").exists()


@pytest.mark.parametrize(("bias", "expected"), [([0.0] * 10, 0.5), (list(range(10)), 0.9353863596916199)])
def test_golden_expectations_of_grades(bias: list[float], expected: float, build: Build, tmp_path: Path) -> None:
    """One objective under a gate of one: uniform grades, and softmax(0, ..., 9)."""
    import torch

    folder = copied(build("ldl", num_objectives=10), tmp_path / "golden")
    for name, wanted in (("regression", torch.tensor(bias)), ("gating", torch.ones(1))):
        layers = torch.load(folder / f"{name}_layer.pt")
        last = f"network.{4 if name == 'regression' else 6}"
        layers |= {f"{last}.weight": torch.zeros_like(layers[f"{last}.weight"]), f"{last}.bias": wanted.float()}
        torch.save(layers, folder / f"{name}_layer.pt")
    assert scores(pinned(folder, "ldl"), ASKED[:2]) == pytest.approx([expected] * 2, abs=1e-7)


@pytest.mark.parametrize("config", [{"softmax": True}, {"softmax": True, "temperature": 3.0}])
def test_the_gate_of_ldl_is_a_softmax_where_the_configuration_says_so(config: dict[str, Any], build: Build) -> None:
    spec = pinned(build("ldl", **config), "ldl")
    found = scores(spec, ASKED)
    assert found == pytest.approx(by_hand("ldl", spec, ASKED), abs=1e-5)
    assert all(0 <= score <= 1 for score in found)
    assert difference(found, scores(pinned(build("ldl"), "ldl"), ASKED)) > 0.1


def test_capped_attention_is_computed(build: Build) -> None:
    """Kernel sdpa would leave it out; the caps of these checkpoints are low enough to show."""
    spec = pinned(build("ldl"), "ldl")
    loaded = engine.load(spec)
    assert loaded.details()["attention"] == "eager"
    loaded._head.model.set_attn_implementation("sdpa")
    assert difference([output.value for output in loaded.run(ASKED)], scores(spec, ASKED)) > 1e-3
    with pytest.raises(ModelError, match=r"set models\.tiny\.attention to eager or flash_attention_2"):
        engine.load(pinned(build("ldl"), "ldl", attention="sdpa"))


@pytest.mark.parametrize(
    ("ids", "pad", "old", "last"),
    [
        ((5, 6, 7), 0, 2, 2),
        ((5, 6, 7, 8, 9), 0, 4, 4),
        ((5, 2, 6, 2, 2), 2, 0, 4),
        ((5, 2, 6, 2), 2, 0, 3),
        ((2, 2, 5, 2, 6), 2, 4, 4),
    ],
)
def test_golden_read_out_positions(ids: tuple[int, ...], pad: int, old: int, last: int) -> None:
    rows = [Rendered("", ids, None, len(ids), False)]
    assert before_first_pad(rows, pad) == [old]
    assert last_attended(rows) == [last]


@pytest.mark.parametrize("family", ["armorm", "qrm_llama31", "worldpm"])
def test_a_pad_id_inside_the_text_moves_the_read_out_as_in_the_reference(
    family: str, build: Build, tmp_path: Path
) -> None:
    """Also in a batch, where the reference would read on the first pad id just the same."""
    ids = renderer_of(spec := pinned(build(family), family), config_of(spec, "reward")).render(ASKED)[0].ids
    folder = copied(build(family), tmp_path / "inside", pad_token_id=ids[-3])
    spec = pinned(folder, family)
    found = scores(spec, ASKED)
    assert found == pytest.approx(by_hand(family, spec, ASKED), abs=1e-4)
    assert scores(replace(spec, token_budget=20_000), ASKED) == pytest.approx(found, abs=1e-5)
    assert abs(found[0] - scores(pinned(build(family), family), ASKED[:1])[0]) > 1e-3


def ids_of(family: str, path: Path, asked: list[Request], **entry: Any) -> list[tuple[int, ...]]:
    spec = pinned(path, family, **entry)
    return [row.ids for row in renderer_of(spec, config_of(spec, "reward")).render(asked)]


def test_internlm2_ends_in_one_reward_token_and_adds_no_other(build: Build) -> None:
    path = build("internlm2")
    reward = json.loads((path / "config.json").read_text(encoding="utf-8"))["reward_token_id"]
    ordinary = ids_of("internlm2", path, ASKED)
    assert all(ids[-1] == reward and ids.count(reward) == 1 for ids in ordinary)
    assert all(ids[:1] == (0,) and ids[1] != 0 for ids in ordinary), "the template's BOS is the only one"
    ending = "{{ messages[1]['content'] }}<|reward|>"
    there = ids_of("internlm2", path, ASKED[:1], chat_template=template(path, ending))
    assert there[0].count(reward) == 1


def template(path: Path, text: str) -> str:
    """A template file beside a checkpoint."""
    file = path.parent / f"{path.name}.jinja"
    file.write_text(text, encoding="utf-8")
    return str(file)


@pytest.mark.parametrize(("family", "kept"), [("internlm2", 1), ("worldpm", 0)])
def test_tokens_of_the_template_alone_are_cut_and_it_is_said(family: str, kept: int, build: Build) -> None:
    spec = pinned(build(family), family)
    whole = engine.load(spec).run(ASKED)
    for side in ("left", "right"):
        short = engine.load(replace(spec, max_length=20, truncation_side=side)).run(ASKED)
        assert [output.num_tokens for output in short] == [min(20, output.num_tokens) for output in whole]
        assert [output.truncated for output in short] == [output.num_tokens > 20 for output in whole]
    entire = ids_of(family, build(family), ASKED[:1])[0]
    left = ids_of(family, build(family), ASKED[:1], max_length=20)[0]
    right = ids_of(family, build(family), ASKED[:1], max_length=20, truncation_side="right")[0]
    assert left == entire[-20:]
    assert right == entire[: 20 - kept] + entire[len(entire) - kept :]


def test_tokens_of_the_template_alone_need_a_template(build: Build, tmp_path: Path) -> None:
    folder = copied(build("worldpm"), tmp_path / "bare")
    values = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    del values["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ModelError, match=r"set models\.tiny\.chat_template to one"):
        engine.lint(pinned(folder, "worldpm"), ASKED)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_preflight_passes(family: str, build: Build) -> None:
    spec = pinned(build(family), family)
    assert [finding for finding in engine.lint(spec, ASKED) if finding.severity == "error"] == []
    assert engine.token_hashes(spec, ASKED) == [output.token_hash for output in engine.load(spec).run(ASKED)]


def test_shipped_models_of_these_families_agree_with_the_references_list(shared: Path) -> None:
    listed = yaml.safe_load((shared / "reference" / "models.yaml").read_text(encoding="utf-8"))["models"]
    wanted = {model["id"]: model for model in listed if model["custom_family"] in IN_THE_REFERENCE}
    files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (CONF_DIR / "model").glob("*.yaml")]
    ours = [values for file in files for values in file.values() if values["family"] in IN_THE_REFERENCE]
    assert {values["path"]: values["family"] for values in ours} == {
        name: model["custom_family"] for name, model in wanted.items()
    }
    assert all(values["size"] == wanted[values["path"]]["params_billion"] for values in ours)
