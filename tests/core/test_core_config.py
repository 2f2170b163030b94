from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hwnas.config import RunConfig, load_run_config
from hwnas.errors import ConfigError

MINIMAL = {
    "name": "demo",
    "data": {"source": "digits"},
    "targets": [{"target": "local/onnxruntime-fp32", "budget": {"max_ms": 1}}],
}


def write(tmp_path: Path, value: object) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(value))
    return path


def test_minimal_file_and_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    config = load_run_config(path, ["search.iterations=3", "targets.0.budget.max_ms=2.5", "name=other"])
    assert (config.search.iterations, config.name) == (3, "other")
    assert config.targets[0].budget is not None
    assert config.targets[0].budget.max_ms == 2.5
    assert config.digest != load_run_config(path).digest


def test_unknown_key_suggests_the_nearest(tmp_path: Path) -> None:
    value = {**MINIMAL, "search": {"iteratons": 3}}
    with pytest.raises(ConfigError, match=r"unknown key 'search.iteratons'; did you mean 'iterations'"):
        load_run_config(write(tmp_path, value))


def test_unknown_key_in_a_list_entry_suggests_the_nearest(tmp_path: Path) -> None:
    value = {**MINIMAL, "targets": [{"target": "local/onnxruntime-fp32", "budgett": {"max_ms": 1}}]}
    with pytest.raises(ConfigError, match="did you mean 'budget'"):
        load_run_config(write(tmp_path, value))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": []}, "targets"),
        ({"data": {}}, "key 'data.source' is missing"),
        ({"targets": [{"target": "local/onnxruntime-fp32", "budget": {}}]}, "exactly one of max_ms and relative"),
        ({"targets": [{"target": "x", "budget": {"relative": "30%"}}]}, "relative"),
        ({"search": {"iterations": 0}}, "search.iterations"),
        ({"name": "a/b"}, "name"),
    ],
)
def test_wrong_values_name_the_key(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_run_config(write(tmp_path, {**MINIMAL, **change}))


def test_not_a_mapping_not_yaml_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mapping"):
        load_run_config(write(tmp_path, [1, 2]))
    path = tmp_path / "bad.yaml"
    path.write_text("a: [")
    with pytest.raises(ConfigError, match="not YAML"):
        load_run_config(path)
    with pytest.raises(ConfigError, match="does not exist"):
        load_run_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="must look like"):
        load_run_config(write(tmp_path, MINIMAL), ["search.iterations"])


def test_the_schema_has_no_free_form_keys_by_accident() -> None:
    schema = RunConfig.model_json_schema()
    assert all(entry.get("additionalProperties") is False for entry in schema["$defs"].values())


def test_the_seed_of_a_run_is_that_of_every_section_but_data(tmp_path: Path) -> None:
    config = load_run_config(write(tmp_path, {**MINIMAL, "seed": 7, "train": {"seed": 2}}))
    seeds = (config.profile.seed, config.train.seed, config.search.seed, config.finetune.seed, config.data.seed)
    assert seeds == (7, 2, 7, 7, 0)
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


def test_a_folder_or_a_broken_override_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_run_config(tmp_path)
    with pytest.raises(ConfigError, match="not YAML"):
        load_run_config(write(tmp_path, MINIMAL), ["data.source=[a"])


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        (
            {"finetune": {"exit_pruning": True}},
            "finetune: finetune.exit_pruning is for finetune.exits: ensemble; set that, or leave exit_pruning out.",
        ),
        (
            {"search": {"budgets": {"macs": -30}}},
            "search.budgets.macs: give a number above 0, or a share below the largest network, such as -30% (got -30).",
        ),
    ],
)
def test_rules_say_nothing_but_what_is_wrong_and_what_mends_it(
    tmp_path: Path, section: dict[str, object], expected: str
) -> None:
    path = write(tmp_path, {**MINIMAL, **section})
    with pytest.raises(ConfigError) as raised:
        load_run_config(path)
    assert str(raised.value) == f"{path}: {expected}"
