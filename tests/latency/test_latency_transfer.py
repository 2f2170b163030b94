from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from latency_devices import QUICK
from latency_samples import FINGERPRINT, RATES, make_rows, make_table

from hwnas import api
from hwnas.config import ProfileSection
from hwnas.errors import FingerprintMismatchError, RunFolderError, TableError
from hwnas.latency import kriging, store
from hwnas.latency.conformal import Conformal
from hwnas.latency.evaluation import evaluate
from hwnas.latency.few_shot import FewShot
from hwnas.latency.kriging import Kriging, Scaling
from hwnas.latency.model import LatencyModel
from hwnas.latency.profiling import profile_target
from hwnas.latency.rows import LatencyRow
from hwnas.latency.sampling import banded, plan_networks
from hwnas.latency.table import LatencyTable
from hwnas.latency.transferred import TransferredModel, load_model, plan_anchors
from hwnas.runs.profiling import fit_folder, profile_folder, transfer_curve
from hwnas.spaces.base import unique_rows
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.targets import Fingerprint, Target

ELSEWHERE = Target.parse("elsewhere/openvino-fp32")


def rates_of(seed: int) -> np.ndarray:
    return RATES * np.exp(0.7 * np.random.default_rng(seed).standard_normal(len(RATES)))


def on_machine(table: LatencyTable, target: Target, name: str) -> LatencyTable:
    """The same rows, as if another machine had measured them."""
    fingerprint = Fingerprint({**FINGERPRINT.identity, "cpu_model": name}, FINGERPRINT.context)
    header = replace(table.header, target=target, fingerprint=fingerprint)
    return LatencyTable(header, tuple(replace(row, identity=fingerprint.identity_digest) for row in table.rows))


@pytest.fixture(scope="module")
def sources(space: MobileNetV3Space) -> list[LatencyModel]:
    plan = plan_networks(space, 80, 10, seed=0)
    models = []
    for seed in (1, 2, 3):
        rows = make_rows(space, plan.train, "train", 0.01, seed, rates=rates_of(seed))
        made = on_machine(make_table(space, rows), Target.parse(f"device{seed}/onnxruntime-fp32"), f"cpu {seed}")
        models.append(LatencyModel.fit(made, space))
    return models


@pytest.fixture(scope="module")
def few(space: MobileNetV3Space, sources: list[LatencyModel]) -> LatencyTable:
    plan = plan_anchors(space, sources, 14, 100, seed=0)
    return make_table(
        space, target_rows(space, plan.train, "train", 5) + target_rows(space, plan.held_out, "held_out", 6)
    )


def target_rows(space: MobileNetV3Space, X: np.ndarray, split: str, seed: int) -> list[LatencyRow]:
    return make_rows(space, X, split, 0.01, seed, with_kernels=False, rates=rates_of(9))


@pytest.fixture(scope="module")
def transferred(few: LatencyTable, space: MobileNetV3Space, sources: list[LatencyModel]) -> TransferredModel:
    return TransferredModel.fit(few, space, sources)


def devices(n: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log latencies of ``count`` devices and one more, which share four latent causes, and two features."""
    rng = np.random.default_rng(seed)
    causes = rng.standard_normal((n, 4)) * [1.0, 0.3, 0.2, 0.1]
    loads = 1.0 + 0.4 * rng.standard_normal((4, count + 1))
    logs = causes @ loads
    return logs[:, :-1], causes[:, :2] + 0.1 * rng.standard_normal((n, 2)), logs[:, -1] - 3.0


def fitted(seed: int, k: int, spoil: float = 0.0) -> tuple[np.ndarray, np.ndarray, Kriging]:
    S, G, truth = devices(600, 8, seed)
    y = truth + 0.02 * np.random.default_rng([seed, 1]).standard_normal(len(truth))
    y[3] += spoil
    regression = Kriging.fit(Scaling.of(S), Scaling.of(G), S[:k], G[:k], y[:k])
    value, spread = regression.predict(S[k:], G[k:])
    return y[k:] - value, spread, regression


def test_a_device_like_others_is_known_from_few_measurements() -> None:
    errors = {k: np.mean([np.sqrt(np.mean(fitted(seed, k)[0] ** 2)) for seed in range(10)]) for k in (8, 16, 50)}
    assert errors[8] > errors[16] > errors[50]
    assert errors[16] < 0.05
    assert errors[50] < 0.025


def test_one_spoilt_measurement_does_little() -> None:
    clean, spoilt = [np.mean([np.sqrt(np.mean(fitted(s, 20, by)[0] ** 2)) for s in range(10)]) for by in (0.0, 1.0)]
    assert spoilt < 1.5 * clean


def test_intervals_hold_what_they_promise() -> None:
    inside = []
    for seed in range(30):
        error, spread, regression = fitted(seed, 20)
        conformal = Conformal.fit(regression.left_out, regression.left_out_spread, 0.9)
        inside.append(np.mean(np.abs(error) <= conformal.half_width(spread)))
    assert 0.86 <= np.mean(inside) <= 0.97


def test_left_out_residuals_are_what_leaving_out_gives() -> None:
    S, G, y = devices(20, 5, 0)
    y = y + 0.05 * np.random.default_rng(0).standard_normal(20)
    Z = kriging.design(Scaling.of(S)(S), Scaling.of(G)(G))
    counts = np.linspace(0.3, 1.0, 20)
    whole = kriging.posterior(Z, 5, y, 0.1, 0.03, counts)
    for index in range(20):
        rest = np.delete(np.arange(20), index)
        without = kriging.posterior(Z[rest], 5, y[rest], 0.1, 0.03, counts[rest])
        assert whole.left_out[index] == pytest.approx(y[index] - Z[index] @ without.mean, rel=1e-6)


def test_columns_that_do_not_vary_are_harmless() -> None:
    S, G, y = devices(30, 4, 1)
    flat = np.column_stack([G, np.full(30, 7.0)])
    a = Kriging.fit(Scaling.of(S), Scaling.of(flat), S[:10], flat[:10], y[:10]).predict(S, flat)[0]
    assert np.isfinite(a).all()
    assert np.corrcoef(a[10:], y[10:])[0, 1] > 0.95


def test_anchors_span_the_space_and_leave_the_judges_alone(
    space: MobileNetV3Space, sources: list[LatencyModel]
) -> None:
    plan = plan_anchors(space, sources, 12, 15, seed=3)
    assert plan.train.shape == (12, space.n_genes)
    assert len(unique_rows(np.concatenate([plan.train, plan.held_out]))) == 27
    assert np.array_equal(plan.held_out, plan_networks(space, 40, 15, seed=3).held_out)
    assert np.array_equal(plan.train, plan_anchors(space, sources, 12, 15, seed=3).train)
    assert [space.id_of(row) for row in plan.train[:2]] == [
        space.id_of(space.encode(space.smallest)),
        space.id_of(space.encode(space.largest)),
    ]
    ranks = np.argsort(
        np.argsort(sources[0].predict(np.concatenate([plan.train, space.sample(np.random.default_rng(0), 500)])).value)
    )
    assert np.ptp(ranks[2:12]) > 300


def test_anchors_leave_no_gap(space: MobileNetV3Space, sources: list[LatencyModel]) -> None:
    pool = space.sample(np.random.default_rng(0), 1000)
    levels = np.sort(sources[0].predict(pool).value)
    gaps = []
    for seed in range(6):
        anchors = sources[0].predict(plan_anchors(space, sources, 12, 3, seed=seed).train[2:]).value
        gaps.append(np.diff(np.sort(np.searchsorted(levels, anchors)), prepend=0, append=1000).max())
    # Drawn at random without bands, the largest of eleven gaps is about 240 of 1,000.
    assert np.mean(gaps) < 215


def test_bands_give_one_network_each() -> None:
    score = np.random.default_rng(0).standard_normal(100)
    ranks = np.argsort(np.argsort(score))
    for seed in range(5):
        chosen = banded(score, 10, np.random.default_rng(seed))
        assert sorted(ranks[chosen] // 10) == list(range(10))
    assert len(banded(score[:4], 10, np.random.default_rng(0))) == 4


def test_physics_alone_counts_where_it_predicts_better_than_other_devices() -> None:
    S, _, y = devices(200, 6, 4)
    F = np.exp(np.random.default_rng(5).standard_normal((200, 3)))
    scalings = Scaling.of(S), Scaling.of(np.log1p(F))
    linear = 1.0 + F @ np.array([0.5, 0.2, 0.1])
    for truth, low, high in ((np.exp(y), 0.0, 0.0), (linear, 0.9, 1.0)):
        blend = FewShot.fit(*scalings, S[:15], F[:15], truth[:15], np.ones(15))
        assert low <= blend.own_weight <= high
        value, _ = blend.predict(S[15:], F[15:])
        assert np.median(np.abs(value - np.log(truth[15:]))) < 0.05


def test_intervals_hold_where_physics_takes_part() -> None:
    inside = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        F = np.exp(rng.standard_normal((300, 4)))
        S = np.log(F @ np.exp(rng.standard_normal((4, 3))))
        y = (F @ np.exp(rng.standard_normal(4))) * np.exp(0.03 * rng.standard_normal(300))
        blend = FewShot.fit(Scaling.of(S), Scaling.of(np.log1p(F)), S[:15], F[:15], y[:15], np.ones(15))
        value, spread = blend.predict(S[15:], F[15:])
        half = Conformal.fit(blend.left_out, blend.left_out_spread, 0.9).half_width(spread)
        inside.append(np.mean(np.abs(np.log(y[15:]) - value) <= half))
    assert 0.84 <= np.mean(inside) <= 0.98


def test_a_transfer_does_not_replace_what_no_transfer_made(
    table: LatencyTable, space: MobileNetV3Space, sources: list[LatencyModel], tmp_path: Path
) -> None:
    model = LatencyModel.fit(table, space)
    keep(table, model, tmp_path)
    before = (tmp_path / "model" / "model.json").read_bytes()
    with pytest.raises(RunFolderError, match="holds a table that no transfer made"):
        profile_folder(table.target, space, ProfileSection(), tmp_path, sources=sources)
    assert (tmp_path / "model" / "model.json").read_bytes() == before


def test_a_device_unlike_all_others_is_predicted_as_well_as_from_its_own_rows(
    few: LatencyTable, transferred: TransferredModel, space: MobileNetV3Space
) -> None:
    held_out = few.measured("held_out")
    ours, alone = evaluate(transferred, held_out), evaluate(LatencyModel.fit(few, space), held_out)
    assert ours.mape < 1.2 * alone.mape
    assert ours.mape < 0.03
    assert ours.spearman > 0.99
    assert 0.8 <= ours.coverage <= 1.0
    assert transferred.facts["rows"] == 14
    assert transferred.facts["sources"][0].startswith("device1/onnxruntime-fp32")


def test_the_curve_falls_with_measurements(
    few: LatencyTable, space: MobileNetV3Space, sources: list[LatencyModel]
) -> None:
    curve = transfer_curve(few, space, sources)
    assert list(curve) == [5, 10, 14]
    assert curve[14].mape < curve[5].mape


def test_a_saved_transfer_predicts_the_same_and_grows(
    few: LatencyTable, transferred: TransferredModel, space: MobileNetV3Space, tmp_path: Path
) -> None:
    transferred.save(tmp_path)
    loaded = load_model(tmp_path, space, few.header.fingerprint)
    assert isinstance(loaded, TransferredModel)
    X = space.sample(np.random.default_rng(1), 50)
    for statistic in ("p50", "p90"):
        a, b = transferred.predict(X, statistic), loaded.predict(X, statistic)
        assert np.allclose(a.value, b.value, rtol=1e-9)
        assert np.allclose(a.high, b.high, rtol=1e-9)
    assert np.array_equal(a.out_of_distribution, b.out_of_distribution)
    more = [replace(row, split="search") for row in target_rows(space, unique_rows(X), "train", 7)]
    known = {row.key for row in few.rows}
    grown, table = loaded.add_rows(few, [row for row in more if row.key not in known])
    assert grown.facts["rows"] == len(table.measured("train", "search")) > 14
    with pytest.raises(FingerprintMismatchError, match="hwnas profile"):
        load_model(tmp_path, space, Fingerprint({**FINGERPRINT.identity, "cpu_model": "other"}, {}))


def test_damaged_and_foreign_transfers_are_refused(
    transferred: TransferredModel,
    few: LatencyTable,
    space: MobileNetV3Space,
    sources: list[LatencyModel],
    tmp_path: Path,
) -> None:
    transferred.save(tmp_path)
    with pytest.raises(TableError, match="is transferred, not measured"):
        LatencyModel.load(tmp_path)
    content = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**content, "kind": "guessed"}))
    with pytest.raises(TableError, match="kind='guessed' must be one of measured, transferred"):
        load_model(tmp_path)
    del content["regression"]["kriging"]["mean"]
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(TableError, match="is damaged"):
        load_model(tmp_path)
    with pytest.raises(TableError, match="at least one latency model of another target"):
        TransferredModel.fit(few, space, [])
    with pytest.raises(TableError, match="at least 5 are needed"):
        TransferredModel.fit(replace(few, rows=few.measured("train")[:4]), space, sources)
    other = MobileNetV3Space(classes=10)
    with pytest.raises(TableError, match="device1/onnxruntime-fp32-t1-b1 is of another space"):
        plan_anchors(other, sources, 12, 5, seed=0)


def keep(table: LatencyTable, model: LatencyModel | TransferredModel | None, folder: Path) -> Path:
    table.save(folder / "table.jsonl")
    if model is not None:
        model.save(folder / "model")
    return folder


def test_sources_are_other_targets_of_the_space_with_a_model(
    space: MobileNetV3Space,
    table: LatencyTable,
    few: LatencyTable,
    transferred: TransferredModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "shipped_root", lambda: tmp_path / "shipped")
    root, here = store.user_root(), few.header.fingerprint
    model = LatencyModel.fit(table, space)
    other = on_machine(table, Target.parse("board/onnxruntime-fp32"), "board")
    good = keep(other, replace(model, fingerprint=other.header.fingerprint), root / "good")
    own = keep(table, model, root / "own")
    bare = keep(on_machine(table, ELSEWHERE, "bare"), None, root / "bare")
    second_hand = keep(on_machine(table, ELSEWHERE, "second hand"), transferred, root / "second-hand")
    pretended = keep(
        on_machine(table, Target.parse("simulated-reference/simulated-fp32"), "simulated"), model, root / "simulated"
    )
    assert [stored.path.parent for stored in store.find_sources(few.target, space, here)] == [good]
    assert [stored.path.parent for stored in store.find_sources(few.target, space, here, [good])] == [good]
    for folder, reason in (
        (own, "it is that target's own table"),
        (bare, "it has no model; say: hwnas fit"),
        (second_hand, "its model was itself transferred"),
        (pretended, "simulated device"),
    ):
        with pytest.raises(TableError, match=reason):
            store.find_sources(few.target, space, here, [folder])
    with pytest.raises(TableError, match="it is of space"):
        store.find_sources(few.target, MobileNetV3Space(classes=10), here, [good])


def test_a_measured_transfer_resumes_fits_again_and_refuses_another_plan(
    space: MobileNetV3Space, sources: list[LatencyModel], tmp_path: Path
) -> None:
    target = Target.parse("simulated-reference/simulated-fp32")
    section = ProfileSection(networks=12, held_out=20, rounds=4)
    protocol = replace(QUICK, rounds=4)
    report = profile_target(target, space, section, tmp_path, protocol=protocol, sources=sources)
    assert (len(report.plan.train), len(report.plan.held_out), report.plan.n_kernels) == (12, 20, 12)
    fitted_once = fit_folder(tmp_path, space)
    assert fitted_once.scores["model"].mape < 0.05
    assert fitted_once.scores["model"].mape < fitted_once.scores["macs"].mape
    assert set(fitted_once.curve) == {5, 10, 12}
    assert len(fitted_once.sources) == 3
    with pytest.raises(RunFolderError, match="holds the table of simulated-reference/simulated-fp32"):
        profile_folder(Target.parse("local/onnxruntime-fp32"), space, section, tmp_path)
    for damage in ("", "{"):
        (tmp_path / "model" / "model.json").write_text(damage)
        assert fit_folder(tmp_path, space).as_dict() == fitted_once.as_dict()
    stored = json.loads((tmp_path / "evaluation.json").read_text())
    assert stored["curve"]["12"]["mape"] == pytest.approx(fitted_once.curve[12].mape)
    (tmp_path / "model" / "sources" / "1" / "model.json").write_text("{")
    with pytest.raises(TableError, match=r"transferred from is damaged .*hwnas tables transfer"):
        fit_folder(tmp_path, space)
    shutil.rmtree(tmp_path / "model" / "sources" / "1")
    with pytest.raises(TableError, match="is missing or was exchanged"):
        load_model(tmp_path / "model", space)
    with pytest.raises(RunFolderError, match=r"differs in sources \(it began with device1/onnxruntime-fp32"):
        profile_target(target, space, section, tmp_path, protocol=protocol, sources=sources[:2])
    assert profile_target(target, space, section, tmp_path, protocol=protocol, sources=sources).table == report.table


def test_a_table_is_refreshed_after_the_runtime_changed(
    space: MobileNetV3Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "shipped_root", lambda: tmp_path / "shipped")
    target, quick = "simulated-reference/simulated-fp32", ("profile.rounds=4",)
    with pytest.raises(TableError, match="of another runtime version on this machine: nothing to refresh"):
        api.profile(target, space, refresh=True)
    made = api.profile(target, space, overrides=(*quick, "profile.networks=40", "profile.held_out=5"))
    with pytest.raises(TableError, match=r"under simulated [0-9.]+ already: nothing to refresh"):
        api.profile(target, space, refresh=True)
    age(made.folder)
    refreshed = api.profile(target, space, refresh=True, overrides=(*quick, "profile.networks=12"))
    assert refreshed.folder != made.folder
    assert refreshed.networks == 22
    assert refreshed.scores["model"].mape < 0.03
    assert refreshed.moved is not None
    assert set(refreshed.moved["identity"]) == {"runtime_version"}
    moved = {block["block"]: block["ratio"] for block in refreshed.moved["blocks"]}
    stems = [name for name in moved if name.startswith("stem:")]
    assert list(moved)[: len(stems)] == stems
    assert all(moved[name] == pytest.approx(0.5, rel=0.05) for name in stems)
    assert len(stems) == len(space.resolutions)
    assert all(0.75 < ratio < 1.33 for name, ratio in moved.items() if name not in stems)
    (row,) = api.predict(["largest"], target, space)
    largest = [row.latency for row in LatencyTable.load(refreshed.folder / "table.jsonl").measured()]
    assert row["value"] == pytest.approx(max(largest), rel=0.05)
    with pytest.raises(TableError, match="already: nothing to refresh"):
        api.profile(target, space, refresh=True)


def age(folder: Path) -> None:
    """Make a profile look like one of an older runtime under which the stem took twice as long."""
    table = LatencyTable.load(folder / "table.jsonl")
    identity = {**table.header.fingerprint.identity, "runtime_version": "0.9"}
    fingerprint = Fingerprint(identity, table.header.fingerprint.context)
    rows = []
    for row in table.rows:
        kernels = {name: ms * (2.0 if name == "stem" else 1.0) for name, ms in row.kernels.items()}
        value = row.latency * (sum(kernels.values()) / sum(row.kernels.values()) if kernels else 1.0)
        numbers = {"value": value, "low": 0.99 * value, "high": 1.01 * value, "kernels": kernels}
        rows.append(replace(row, identity=fingerprint.identity_digest, **numbers))
    LatencyTable(replace(table.header, fingerprint=fingerprint), tuple(rows)).save(folder / "table.jsonl")
    model = json.loads((folder / "model" / "model.json").read_text())
    model["fingerprint"] = fingerprint.as_dict()
    (folder / "model" / "model.json").write_text(json.dumps(model))
