"""The artifact: round trip, whole or not at all, and refusals that say what, where and what to do."""

import json
import os

import pytest
import torch
from research.icms import subspace
from research.icms.subspace import LayerSubspace, SubspaceError, Subspaces

SIZE, SAMPLES = 12, 9


def artifact(layers=(2, 5), seed=0):
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for n in layers:
        basis = torch.linalg.qr(torch.randn(SIZE, 6, generator=generator, dtype=torch.float64)).Q.float()
        pooled = torch.randn(SAMPLES, SIZE, generator=generator)
        ids = tuple(f"s{i}" for i in range(SAMPLES))
        found[n] = LayerSubspace(n, (n - 1, n), basis[:, :2], basis[:, 2:], pooled.mean(0), pooled, ids)
    meta = {
        "model": {"path": "some/model", "hidden_size": SIZE, "num_layers": 8},
        "template": "In: {instruction} Out:",
        "probe": {"hash": "abc", "n": SAMPLES},
        "layers": {str(n): {"rms": 1.5} for n in layers},
    }
    return Subspaces(meta, found)


def same(a, b):
    return (
        a.layers.keys() == b.layers.keys()
        and all(
            torch.equal(getattr(one, name), getattr(b.layers[n], name))
            for n, one in a.layers.items()
            for name in ("Uf", "Up", "mu", "pooled")
        )
        and all(one.members == b.layers[n].members and one.ids == b.layers[n].ids for n, one in a.layers.items())
    )


def test_round_trip_and_layout(tmp_path):
    made = artifact()
    made.save(tmp_path / "deep" / "icms")
    folder = tmp_path / "deep" / "icms"
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(["meta.json", *(f"{n}/{f}.pt" for n in (2, 5) for f in ("Uf", "Up", "mu", "C_T"))])
    assert [path.name for path in folder.parent.iterdir()] == ["icms"]
    loaded = Subspaces.load(folder)
    assert same(made, loaded)
    assert loaded.meta["layers"]["2"] == {"rms": 1.5, "members": [1, 2]}
    factor = torch.load(folder / "2" / "C_T.pt", weights_only=True)
    assert set(factor) == {"pooled", "ids"}
    assert all(value.numel() < SIZE * SIZE for value in (factor["pooled"],)), "never a D x D matrix"


def test_an_older_artifact_is_replaced_and_nothing_else_is(tmp_path):
    artifact().save(tmp_path / "icms")
    newer = artifact(layers=(3,), seed=1)
    newer.save(tmp_path / "icms")
    assert same(Subspaces.load(tmp_path / "icms"), newer)
    assert not (tmp_path / "icms" / "2").exists()
    (tmp_path / "empty").mkdir()
    newer.save(tmp_path / "empty")
    thesis = tmp_path / "work" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("years")
    for place in (thesis.parent, thesis):
        with pytest.raises(SubspaceError, match=r"is no subspace artifact; choose another --out"):
            newer.save(place)
    assert thesis.read_text() == "years"


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("fails", ["torch.save", "rename"])
def test_written_whole_or_not_at_all(tmp_path, monkeypatch, older, fails):
    folder = tmp_path / "icms"
    if older:
        artifact().save(folder)
    calls = []

    def broken(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3 or fails == "rename":
            raise OSError("disk full")
        return real(*args, **kwargs)

    if fails == "torch.save":
        real = torch.save
        monkeypatch.setattr(subspace.torch, "save", broken)
    else:
        real = None
        rename = subspace.Path.rename
        monkeypatch.setattr(
            subspace.Path, "rename", lambda path, to: broken() if ".new-" in path.name else rename(path, to)
        )
    with pytest.raises(OSError, match="disk full"):
        artifact(layers=(3,), seed=1).save(folder)
    monkeypatch.undo()
    assert calls
    assert [path.name for path in tmp_path.iterdir()] == (["icms"] if older else [])
    if older:
        assert same(Subspaces.load(folder), artifact())


def rewrite(path, change):
    meta = json.loads(path.read_text())
    change(meta)
    path.write_text(json.dumps(meta))


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("evil-was-here",))


def tampered(folder):
    """A pickle that would run code, with its digest in meta.json: only weights_only stands in its way."""
    path = folder / "2" / "mu.pt"
    torch.save(Evil(), path)
    rewrite(folder / "meta.json", lambda meta: meta["files"].update({"2/mu.pt": subspace._digest(path)}))


def rescaled(folder):
    path = folder / "2" / "Uf.pt"
    torch.save(torch.load(path, weights_only=True) * 1.01, path)
    rewrite(folder / "meta.json", lambda meta: meta["files"].update({"2/Uf.pt": subspace._digest(path)}))


def cut(folder):
    path = folder / "2" / "mu.pt"
    torch.save(torch.load(path, weights_only=True)[:-1], path)
    rewrite(folder / "meta.json", lambda meta: meta["files"].update({"2/mu.pt": subspace._digest(path)}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "meta.json").unlink(), r"meta.json: no subspace artifact there"),
        (lambda f: (f / "meta.json").write_text("{"), r"meta.json cannot be read"),
        (lambda f: (f / "meta.json").write_text("[]"), r"meta.json is not of format 1"),
        (lambda f: rewrite(f / "meta.json", lambda m: m.update(format=99)), r"is not of format 1"),
        (lambda f: rewrite(f / "meta.json", lambda m: m.pop("template")), r"lacks template"),
        (lambda f: (f / "5" / "Up.pt").unlink(), r"Up.pt is missing"),
        (lambda f: (f / "5" / "Up.pt").write_bytes(b"x"), r"Up.pt is not the file that meta.json describes"),
        (rescaled, r"Uf and Up are not orthonormal"),
        (cut, r"shapes of Uf, Up, mu and C_T do not fit"),
    ],
)
def test_damage_is_refused(tmp_path, damage, said):
    artifact().save(tmp_path / "icms")
    damage(tmp_path / "icms")
    with pytest.raises(SubspaceError, match=said) as error:
        Subspaces.load(tmp_path / "icms")
    assert str(tmp_path) in str(error.value)
    assert "python -m research.icms.offline_icms" in str(error.value)


def test_loading_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    artifact().save(tmp_path / "icms")
    tampered(tmp_path / "icms")
    with pytest.raises(SubspaceError, match=r"mu.pt holds more than tensors"):
        Subspaces.load(tmp_path / "icms")
    assert not (tmp_path / "evil-was-here").exists()


def test_check_names_thing_both_values_and_remedy():
    found = artifact()
    fits = {"hidden_size": SIZE, "num_layers": 8, "template": "In: {instruction} Out:", "probe_hash": "abc"}
    found.check(**fits)
    found.check()
    for name, wrong, thing in [
        ("hidden_size", 13, "hidden size"),
        ("num_layers", 9, "number of layers"),
        ("template", "In: {instruction}", "prompt template"),
        ("probe_hash", "abd", "probe set"),
    ]:
        with pytest.raises(SubspaceError) as error:
            found.check(**{**fits, name: wrong})
        said = str(error.value)
        assert said.startswith(thing)
        assert repr(wrong) in said
        assert repr(fits[name]) in said
        assert "python -m research.icms.offline_icms" in said
