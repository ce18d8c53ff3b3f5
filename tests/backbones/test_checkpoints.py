"""Checkpoints of real trainers load with the same logits, or are refused with the true reason."""

import logging
import os
import pickle
import re
import shlex
import subprocess
import sys
import zipfile
from fractions import Fraction

import pytest
import timm
import torch
from checkpoints import SMALL, WRITERS, network, saved, with_loss
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from acclimate.backbones import build, split
from acclimate.backbones.checkpoint import read_checkpoint
from acclimate.backbones.weights import find_weights, load_into, load_weights, read_weights
from acclimate.errors import InputError

HALF = {"half": torch.float16, "bfloat16": torch.bfloat16}
IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [b"caf\xe9.pt", b"caf\xe9.safetensors"])
def test_paths_that_are_no_utf8(name, tmp_path):
    path = tmp_path / os.fsdecode(name)
    state = network().state_dict()
    if path.suffix == ".pt":
        with path.open("wb") as file:
            torch.save(state, file)
    else:
        save_file(state, path)
    model = network(2)
    load_weights(model, path)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_there_are_at_least_forty_kinds():
    assert len(WRITERS) >= 40


@pytest.mark.parametrize("kind", WRITERS)
def test_a_trainers_checkpoint_loads(kind, tmp_path, caplog):
    net = network()
    expected = net.state_dict()
    written = WRITERS[kind](net, tmp_path)
    path, said = written if isinstance(written, tuple) else (written, "weights: ")
    with caplog.at_level(logging.INFO, "acclimate"):
        loaded = build(SMALL, classes=None, weights=path).eval()
    assert said in caplog.text
    dtype = HALF.get(kind, torch.float32)
    for name, tensor in expected.items():
        if not name.endswith("num_batches_tracked"):
            kept = tensor.to(dtype).float() if tensor.is_floating_point() else tensor
            assert torch.equal(loaded.state_dict()[name], kept), name
            assert loaded.state_dict()[name].dtype == tensor.dtype
    if kind not in HALF:
        with torch.no_grad():
            assert torch.equal(loaded(IMAGES), net(IMAGES))


def test_parametrised_weights_have_old_and_new_names(tmp_path):
    def made(old):
        torch.manual_seed(0)
        one, two = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
        if old:
            one = nn.utils.weight_norm(one)
            two = nn.utils.spectral_norm(two)
        else:
            one = nn.utils.parametrizations.weight_norm(one)
            two = nn.utils.parametrizations.spectral_norm(two)
        return nn.Sequential(one, nn.AdaptiveAvgPool2d(1), nn.Flatten(), two).eval()

    for old in (True, False):
        source, target = made(old), made(not old)
        for parameter in source.parameters():
            parameter.data += 0.1
        said = load_weights(target, saved({"model": source.state_dict()}, tmp_path))
        assert said.endswith("prefix 'model.' removed")
        assert torch.allclose(target(IMAGES), source(IMAGES), atol=1e-6)


@pytest.mark.parametrize("built_with", [True, False])
def test_auxiliary_heads_may_be_missing_or_left_over(built_with, tmp_path):

    trained = models.googlenet(num_classes=3, init_weights=False, aux_logits=not built_with).eval()
    own = models.googlenet(num_classes=3, init_weights=False, aux_logits=built_with).eval()
    checkpoint = read_weights(saved(trained.state_dict(), tmp_path))
    load_into(own, find_weights(checkpoint, own, 3), checkpoint)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(own(images), trained(images))


def test_the_number_of_classes_is_in_what_a_trainer_wrote(tmp_path):

    net = timm.create_model("test_resnet.r160_in1k", num_classes=7).eval()
    path = saved({"state_dict": nn.DataParallel(net).state_dict()}, tmp_path)
    assert torch.equal(
        build("timm:test_resnet.r160_in1k", classes=None, weights=path).eval()(IMAGES), net(IMAGES)
    )


REFUSED = {
    "two networks": (
        lambda net: {"encoder_q": net.state_dict(), "encoder_k": network(2).state_dict()},
        r"2 networks that fit: 'encoder_q.', 'encoder_k.'; choose one: --weights .*:encoder_q",
    ),
    "two averages": (
        lambda net: {"ema": net.state_dict(), "swa": network(2).state_dict()},
        "2 networks that fit",
    ),
    "no classifier": (
        lambda net: {n: t for n, t in net.state_dict().items() if not n.startswith("head")},
        r"without its classifier: missing 2 \(head.weight, head.bias\), and besides none",
    ),
    "a classifier under other names": (
        lambda net: {
            "state_dict": {f"backbone.{n}": t for n, t in net.encoder.state_dict().items()}
            | {f"linear.{n}": t for n, t in net.head.state_dict().items()}
        },
        "does not fit the model",
    ),
    "a part": (
        lambda net: dict(list(net.state_dict().items())[4:]),
        r"does not fit the model: missing 4 \(",
    ),
    "a part below a prefix": (
        lambda net: {"state_dict": {f"model.{n}": t for n, t in [*net.state_dict().items()][4:]}},
        r"does not fit the model at 'state_dict.model.': missing 4 \(",
    ),
    "a deeper network": (
        lambda net: build("acclimate:resnet14-w8", classes=5).state_dict(),
        r"it has all of its tensors, and besides unexpected \d+ \(.*larger network",
    ),
    "a wider network": (
        lambda net: {"model": build("acclimate:resnet8-w16", classes=5).state_dict()},
        r"other shapes for .*file \[16, 3, 3, 3\], model \[8, 3, 3, 3\]",
    ),
    "another number of channels": (
        lambda net: {**net.state_dict(), "encoder.stem.0.weight": torch.ones(8, 1, 3, 3)},
        r"they take images of 1 channels, so build this network in a function",
    ),
    "other classes": (
        lambda net: build(SMALL, classes=9).state_dict(),
        "is of a classifier of 9 classes, not of 5; leave",
    ),
    "another network": (
        lambda net: {"model": nn.Linear(2, 2).state_dict()},
        "not one name is the same",
    ),
    "only an optimiser": (lambda net: {"optimizer": with_loss(net)}, "not one name is the same"),
    "no tensors": (lambda net: {"epoch": 3}, "holds no tensors by name"),
    "a list": (lambda net: [torch.ones(2)], "holds no tensors by name"),
    "NaN": (
        lambda net: {**net.state_dict(), "head.bias": torch.full((5,), torch.nan)},
        "holds NaN or infinity in head.bias",
    ),
    "whole numbers": (
        lambda net: {n: t.to(torch.int8) for n, t in net.state_dict().items()},
        "as torch.int8, the model needs torch.float32",
    ),
    "no shape": (
        lambda net: {n: torch.tensor(1.0) for n in net.state_dict()},
        "other shapes",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_the_reason(case, tmp_path):
    make, reason = REFUSED[case]
    path = saved(make(network()), tmp_path)
    with pytest.raises(InputError, match=reason):
        build(SMALL, classes=5, weights=path)


def test_an_entry_that_is_not_there(tmp_path):
    path = saved({"model": network().state_dict()}, tmp_path)
    with pytest.raises(InputError, match=r"has no entry 'ema'; it has 1 \(model\)"):
        build(SMALL, classes=5, weights=f"{path}:ema")
    with pytest.raises(InputError, match="there is no file with weights"):
        build(SMALL, classes=5, weights=f"{path}x:ema")


def test_a_path_with_a_colon_is_a_path(tmp_path):
    path = saved(network().state_dict(), tmp_path, "a:b.pth")
    build(SMALL, classes=5, weights=path)


class Evil:
    def __init__(self, action):
        self.action = action

    def __reduce__(self):
        return self.action


def evil(kind, marker):
    return {
        "os.system": (os.system, (f"touch {shlex.quote(str(marker))}",)),
        "exec": (exec, (f"open({str(marker)!r}, 'w')",)),
        "open": (open, (str(marker), "w")),
        "getattr": (getattr, ("", "upper")),
    }[kind]


@pytest.mark.parametrize("kind", ["os.system", "exec", "open", "getattr"])
@pytest.mark.parametrize("form", ["zip", "legacy", "bare", "folder", "shards"])
def test_code_in_a_pickle_is_never_run(kind, form, tmp_path):
    marker, contents = tmp_path / "ran", {"model": network().state_dict()}
    contents["x"] = Evil(evil(kind, marker))
    path = tmp_path / "pytorch_model.bin"
    if form == "bare":
        path.write_bytes(pickle.dumps(contents["x"], protocol=2))
    else:
        torch.save(contents, path, _use_new_zipfile_serialization=form != "legacy")
    if form == "folder":
        path = tmp_path
    if form == "shards":
        path = tmp_path / "x.index.json"
        path.write_text('{"weight_map": {"head.bias": "pytorch_model.bin"}}')
    with pytest.raises(InputError) as caught:
        build(SMALL, classes=5, weights=path)
    assert not marker.exists()
    if form != "bare":
        assert "if you trust it, keep its weights alone" in str(caught.value)


class Whole(nn.Sequential):
    """A network of the user's own class, as torch.save(model) writes it."""


def whole():
    net = Whole(nn.Flatten(), nn.Linear(2, 3))
    net[1].weight.data = torch.randn(2, 3).T  # not contiguous
    net.add_module("tied", net[1])
    return net


def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(2, 3))


WITH_COMMAND = {
    "a whole module": lambda folder: saved(whole(), folder),
    "a module in a mapping": lambda folder: saved({"model": whole(), "date": "today"}, folder),
    "a legacy module": lambda folder: saved(whole(), folder, _use_new_zipfile_serialization=False),
    "strange settings beside": lambda folder: saved(
        {"state_dict": whole().state_dict(), "config": Fraction(1, 3), "epoch": 3}, folder
    ),
    "TorchScript": lambda folder: _scripted(folder),
    "an exported program": lambda folder: _exported(folder),
}


def _scripted(folder):
    torch.jit.save(torch.jit.trace(plain(), torch.ones(1, 2)), folder / "checkpoint.pt")
    return folder / "checkpoint.pt"


def _exported(folder):
    torch.export.save(torch.export.export(plain(), (torch.ones(1, 2),)), folder / "checkpoint.pt2")
    return folder / "checkpoint.pt2"


@pytest.mark.parametrize("kind", WITH_COMMAND)
@pytest.mark.filterwarnings("ignore")
def test_the_command_of_a_refusal_works(kind, tmp_path, monkeypatch):
    torch.manual_seed(0)
    path = WITH_COMMAND[kind](tmp_path)
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    (command,) = re.findall(r"`(.*)`", str(caught.value))
    python, option, program, *arguments = shlex.split(command)
    assert (python, option) == ("python", "-c")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["-c", *arguments])
    exec(program, {})  # as the user's Python would, which knows the user's classes
    torch.manual_seed(0)
    net = plain() if kind.startswith(("TorchScript", "an exported")) else whole()
    bias = net[1].bias.clone()
    nn.init.zeros_(net[1].bias)
    checkpoint = read_weights(tmp_path / "weights.pt")
    load_into(net, find_weights(checkpoint, net, 3), checkpoint)
    assert torch.equal(net[1].bias, bias)


def test_a_program_exported_before_torch_2_8_is_known(tmp_path):
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
    with pytest.raises(InputError, match=r"is a program of torch\.export"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"PK\x03\x04 and no more", "cannot be read as a checkpoint"),
        (b"\x80\x02 and no more", "cannot be read as a checkpoint"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "none of torch.save"),
    ],
)
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_files_that_are_no_checkpoints(content, reason, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    if name == "x.safetensors" and content[:4] == b"\x89HDF":
        reason = "cannot be read as a .safetensors file"
    with pytest.raises(InputError, match=reason):
        read_checkpoint(tmp_path / name)


def test_folders_that_hold_no_weights(tmp_path):
    with pytest.raises(InputError, match=r"it has no model\.safetensors or pytorch_model\.bin"):
        read_checkpoint(tmp_path)
    (tmp_path / "__0_0.distcp").touch()
    with pytest.raises(InputError, match="format_utils dcp_to_torch"):
        read_checkpoint(tmp_path)


@pytest.mark.slow
def test_the_command_for_a_distributed_checkpoint_works(tmp_path):
    from torch.distributed import checkpoint

    checkpoint.save({"model": network().state_dict()}, checkpoint_id=tmp_path / "all")
    with pytest.raises(InputError) as caught:
        read_checkpoint(tmp_path / "all")
    (command,) = re.findall(r"`(.*)`", str(caught.value))
    subprocess.run(
        [sys.executable, *shlex.split(command)[1:]],
        check=True,
        cwd=tmp_path,
        capture_output=True,
        timeout=120,
    )
    build(SMALL, classes=5, weights=tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ("{}", "is no index"),
        ('{"weight_map": {"a": "../a.safetensors"}}', "it names files elsewhere"),
        ('{"weight_map": {"a": 3}}', "is no index"),
        ('{"weight_map": {"a": "a.safetensors"}}', "there is no file with weights"),
        ('{"weight_map": {"b": "shard.safetensors"}}', "lack 'b'"),
        ("[" * 100_000, "is no index"),
    ],
)
def test_an_index_that_names_no_weights(index, reason, tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "shard.safetensors")
    (tmp_path / "x.index.json").write_text(index)
    with pytest.raises(InputError, match=reason):
        read_checkpoint(tmp_path / "x.index.json")


def test_mappings_within_themselves_are_read_once(tmp_path):
    contents = {"model": network().state_dict()}
    contents["self"] = contents
    wide = {str(n): contents for n in range(300)}
    for _ in range(2):
        wide = {str(n): wide for n in range(300)}
    path = saved(wide, tmp_path)
    build(SMALL, classes=5, weights=path)


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    net = nn.Linear(2, 2)
    path = saved({"model": net.state_dict(), "epoch": 3}, folder, "new.pt")
    old = saved(net.state_dict(), folder, "old.pt", _use_new_zipfile_serialization=False)
    save_file(net.state_dict(), folder / "x.safetensors")
    return {each: each.read_bytes() for each in (path, old, folder / "x.safetensors")}


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_mutated_files_never_end_in_a_traceback(data, whole_files, tmp_path):
    path = data.draw(st.sampled_from(list(whole_files)))
    content = bytearray(whole_files[path])
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    mutated = tmp_path / path.name
    mutated.write_bytes(content)
    try:
        checkpoint = read_weights(mutated)
        net = nn.Linear(2, 2)
        load_into(net, find_weights(checkpoint, net, 2), checkpoint)
    except InputError as error:
        assert str(error).endswith(".")


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_mutated_pickles_in_whole_archives(data, whole_files, tmp_path):
    original = next(path for path in whole_files if path.name == "new.pt")
    mutated = tmp_path / "mutated.pt"
    with zipfile.ZipFile(original) as old, zipfile.ZipFile(mutated, "w") as new:
        for info in old.infolist():
            content = bytearray(old.read(info))
            if info.filename.endswith("data.pkl"):
                for _ in range(data.draw(st.integers(1, 4))):
                    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(
                        st.integers(0, 255)
                    )
            new.writestr(info.filename, bytes(content))
    try:
        checkpoint = read_weights(mutated)
        net = nn.Linear(2, 2)
        load_into(net, find_weights(checkpoint, net, 2), checkpoint)
    except InputError as error:
        assert str(error).endswith(".")


def test_a_loaded_network_splits(tmp_path):
    path = saved({"state_dict": network().state_dict()}, tmp_path)
    assert split(build(SMALL, classes=None, weights=path)).num_classes == 5


def test_weights_for_another_image_size(tmp_path):
    name = "timm:vit_tiny_patch16_224"
    small = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=96, depth=1)
    path = saved(build(name, classes=3).state_dict() | {"pos_embed": small.pos_embed}, tmp_path)
    with pytest.raises(InputError, match="they are for another image size"):
        build(name, classes=3, weights=path)


def test_inception_has_the_switch_of_torchvisions_own_weights(tmp_path):
    trained = models.googlenet(num_classes=3, init_weights=False)
    path = saved(trained.state_dict(), tmp_path)
    assert build("torchvision:googlenet", classes=None, weights=path).transform_input


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [
        *("torchvision:squeezenet1_0", "torchvision:inception_v3", "torchvision:densenet121"),
        *("torchvision:swin_v2_t", "torchvision:maxvit_t", "torchvision:mobilenet_v2"),
        *("timm:levit_128s", "timm:deit_tiny_distilled_patch16_224", "timm:dpn68"),
        *("timm:coat_tiny", "timm:swin_tiny_patch4_window7_224", "timm:beit_base_patch16_224"),
    ],
)
def test_whole_networks_with_their_number_of_classes(name, tmp_path):
    kind, _, architecture = name.partition(":")
    make = models.get_model if kind == "torchvision" else timm.create_model
    trained = make(architecture, num_classes=7).state_dict()
    wrapped = {f"model._orig_mod.{n}": tensor for n, tensor in trained.items()}
    loaded = build(name, classes=None, weights=saved({"state_dict": wrapped}, tmp_path))
    assert loaded.state_dict().keys() == trained.keys()
    assert all(torch.equal(t, trained[n]) for n, t in loaded.state_dict().items())


def test_a_folder_with_several_networks(tmp_path):
    for name in ("model.safetensors", "model_1.safetensors"):
        save_file(network().state_dict(), tmp_path / name)
    with pytest.raises(InputError, match=r"several networks, model.safetensors and model_1"):
        build(SMALL, classes=None, weights=tmp_path)
