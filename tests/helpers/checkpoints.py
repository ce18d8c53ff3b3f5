"""Checkpoints as trainers write them, made by the trainers' own libraries on one tiny network."""

import argparse
import copy
import pathlib
import warnings
from collections import OrderedDict

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from acclimate.backbones import build

SMALL = "acclimate:resnet8-w8"
WRITERS = {}


def network(seed=1):
    """A network of 5 classes in which no tensor has its initial value."""
    torch.manual_seed(seed)
    net = build(SMALL, classes=5)
    for name, tensor in net.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point():
            tensor.normal_(std=0.3)
    return net.eval()


def writer(function):
    """Register a function (network, folder) -> path, or -> (path, what the loader says)."""
    WRITERS[function.__name__] = function
    return function


def saved(contents, folder, name="checkpoint.pth", **options):
    torch.save(contents, folder / name, **options)
    return folder / name


def optimizer_of(net):
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    net(torch.randn(2, 3, 16, 16)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def with_loss(net):
    """The optimiser's state of another network of the same shape, so that net stays as it is."""
    return optimizer_of(copy.deepcopy(net))


# torch


@writer
def state_dict(net, folder):
    return saved(net.state_dict(), folder), "weights: "


@writer
def legacy_format(net, folder):
    return saved(net.state_dict(), folder, "old.pt", _use_new_zipfile_serialization=False)


@writer
def suffix_tar(net, folder):
    return saved({"state_dict": net.state_dict(), "epoch": 3}, folder, "model_best.pth.tar")


@writer
def suffix_bin(net, folder):
    return saved(net.state_dict(), folder, "pytorch_model.bin")


@writer
def safetensors_named_pt(net, folder):
    save_file(net.state_dict(), folder / "weights.pt")
    return folder / "weights.pt"


@writer
def torch_file_named_safetensors(net, folder):
    return saved(net.state_dict(), folder, "weights.safetensors")


@writer
def channels_last(net, folder):
    net = copy.deepcopy(net).to(memory_format=torch.channels_last)
    return saved(net.state_dict(), folder)


@writer
def shared_tensors(net, folder):
    return saved({"model": net.state_dict(), "best": net.state_dict()}, folder)


@writer
def parameters_not_tensors(net, folder):
    return saved(dict(net.named_parameters()) | dict(net.named_buffers()), folder)


@writer
def data_parallel(net, folder):
    return saved(nn.DataParallel(net).state_dict(), folder), "prefix 'module.' removed"


@writer
def distributed(net, folder):
    from torch import distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(net))
        return saved(wrapped.state_dict(), folder), "prefix 'module.' removed"
    finally:
        dist.destroy_process_group()


@writer
def compiled(net, folder):
    return saved(torch.compile(net).state_dict(), folder), "prefix '_orig_mod.' removed"


@writer
def compiled_in_parallel(net, folder):
    wrapped = nn.DataParallel(torch.compile(net))
    return saved(wrapped.state_dict(), folder), "prefix 'module._orig_mod.' removed"


@writer
def parallel_in_compiled(net, folder):
    wrapped = torch.compile(nn.DataParallel(net))
    return saved(wrapped.state_dict(), folder), "prefix '_orig_mod.module.' removed"


@writer
def only_the_encoder_compiled(net, folder):
    net = copy.deepcopy(net)
    net.encoder = torch.compile(net.encoder)
    return saved(net.state_dict(), folder)


@writer
def only_the_encoder_parallel(net, folder):
    net = copy.deepcopy(net)
    net.encoder = nn.DataParallel(net.encoder)
    return saved(net.state_dict(), folder)


@writer
def activation_checkpointing(net, folder):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    net = copy.deepcopy(net)
    net.encoder = checkpoint_wrapper(net.encoder)
    tensors = {
        "encoder._checkpoint_wrapped_module." + n: t for n, t in net.encoder.state_dict().items()
    }
    tensors |= {f"head.{name}": tensor for name, tensor in net.head.state_dict().items()}
    return saved(tensors, folder)


@writer
def fully_sharded_names(net, folder):
    tensors = {f"_fsdp_wrapped_module.{name}": tensor for name, tensor in net.state_dict().items()}
    return saved({"model": tensors}, folder)


@writer
def averaged_model(net, folder):
    from torch.optim.swa_utils import AveragedModel

    return saved(AveragedModel(net).state_dict(), folder), "prefix 'module.' removed"


@writer
def half(net, folder):
    return saved(copy.deepcopy(net).half().state_dict(), folder)


@writer
def bfloat16(net, folder):
    return saved(copy.deepcopy(net).bfloat16().state_dict(), folder)


@writer
def double(net, folder):
    return saved(copy.deepcopy(net).double().state_dict(), folder)


@writer
def without_batch_counts(net, folder):
    tensors = {n: t for n, t in net.state_dict().items() if "num_batches" not in n}
    return saved(tensors, folder), "num_batches_tracked"


@writer
def with_auxiliary_heads(net, folder):
    extra = {"aux1.fc.weight": torch.ones(5, 3), "AuxLogits.conv.weight": torch.ones(2)}
    return saved({**net.state_dict(), **extra}, folder)


# Training scripts


@writer
def model_and_optimizer(net, folder):
    contents = {"model_state_dict": net.state_dict(), "optimizer_state_dict": with_loss(net)}
    return saved({"epoch": 7, "loss": 0.25, **contents}, folder), "'model_state_dict.'"


@writer
def net_and_accuracy(net, folder):
    contents = {"net": nn.DataParallel(net).state_dict(), "acc": np.float64(93.5), "epoch": 199}
    return saved(contents, folder), "'net.module.'"


@writer
def with_random_states(net, folder):
    states = {"numpy": np.random.get_state(), "torch": torch.get_rng_state()}
    return saved({"state_dict": net.state_dict(), "rng": states, "out": pathlib.Path("x")}, folder)


@writer
def torchvision_references(net, folder):
    from torch.optim.swa_utils import AveragedModel

    other = network(2)
    return saved(
        {
            "model": other.state_dict(),
            "optimizer": with_loss(other),
            "lr_scheduler": {"last_epoch": 3},
            "epoch": 3,
            "args": argparse.Namespace(model="resnet18", lr=0.1, output_dir="."),
            "model_ema": AveragedModel(net).state_dict(),
        },
        folder,
    ), "prefix 'model_ema.module.' removed (the average over training)"


def _timm_saver(net, folder, ema):
    from timm.utils import CheckpointSaver

    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    arguments = argparse.Namespace(model="resnet8", opt="sgd")
    saver = CheckpointSaver(
        net,
        optimizer,
        args=arguments,
        model_ema=ema,
        checkpoint_dir=str(folder),
        recovery_dir=str(folder),
    )
    saver.save_checkpoint(0, metric=0.5)
    return folder / "last.pth.tar"


@writer
def timm_train(net, folder):
    return _timm_saver(net, folder, None), "prefix 'state_dict.' removed"


@writer
def timm_train_with_average(net, folder):
    from timm.utils import ModelEmaV3

    return _timm_saver(network(2), folder, ModelEmaV3(net)), "prefix 'state_dict_ema.' removed"


@writer
def timm_model_ema_v2(net, folder):
    from timm.utils import ModelEmaV2

    return saved(ModelEmaV2(net).state_dict(), folder)


@writer
def timm_model_ema_v3(net, folder):
    from timm.utils import ModelEmaV3

    return saved(ModelEmaV3(net).state_dict(), folder)


@writer
def entry_by_name(net, folder):
    path = saved({"model": net.state_dict(), "model_ema": network(2).state_dict()}, folder)
    return pathlib.Path(f"{path}:model")


@writer
def entry_within_names(net, folder):
    names = {"encoder_q": net, "encoder_k": network(2)}
    tensors = {
        f"module.{k}.{n}": t for k, each in names.items() for n, t in each.state_dict().items()
    }
    path = saved(
        {"arch": "resnet8", "state_dict": tensors | {"module.queue": torch.ones(2)}}, folder
    )
    return pathlib.Path(f"{path}:state_dict.module.encoder_q")


@writer
def fastai_learner(net, folder):
    return saved({"model": net.state_dict(), "opt": with_loss(net)}, folder), "'model.'"


# Lightning and accelerate


def _lightning(net, folder, module=None, callbacks=(), **parameters):
    import lightning

    class Task(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.save_hyperparameters(parameters)
            self.net = net
            self.criterion = nn.CrossEntropyLoss(weight=torch.ones(5))
            self.train_metric = nn.BatchNorm1d(1)

        def training_step(self, batch, _):
            return self.criterion(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), lr=0.0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_steps=1,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            enable_checkpointing=False,
            callbacks=list(callbacks),
        )
        batches = [(torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3]))]
        trainer.fit((module or Task)(), torch.utils.data.DataLoader(batches, batch_size=None))
        trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


def frozen_statistics(net):
    """A copy whose batch norm keeps its statistics while it is trained."""
    net = copy.deepcopy(net)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    return net


@writer
def lightning_module(net, folder):
    path = _lightning(frozen_statistics(net), folder, lr=0.1, root=pathlib.Path("x"))
    return path, "prefix 'state_dict.net.' removed"


@writer
def lightning_compiled(net, folder):
    return _lightning(torch.compile(frozen_statistics(net), backend="eager"), folder)


@writer
def lightning_averaging(net, folder):
    from lightning.pytorch.callbacks import WeightAveraging

    return _lightning(frozen_statistics(net), folder, callbacks=[WeightAveraging()])


@writer
def lightning_averaging_beside_the_last(net, folder):
    contents = {"state_dict": net.state_dict(), "current_model_state": network(2).state_dict()}
    return saved(contents, folder)


@writer
def accelerate_state(net, folder):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    prepared = accelerator.prepare(copy.deepcopy(net))
    accelerator.save_state(str(folder / "state"))
    accelerator.free_memory(prepared)
    return folder / "state"


@writer
def accelerate_pickled_state(net, folder):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    prepared = accelerator.prepare(copy.deepcopy(net))
    accelerator.save_state(str(folder / "state"), safe_serialization=False)
    accelerator.free_memory(prepared)
    return folder / "state"


@writer
def accelerate_model(net, folder):
    from accelerate import Accelerator

    Accelerator(cpu=True).save_model(net, str(folder))
    return folder / "model.safetensors"


@writer
def accelerate_shards(net, folder):
    from accelerate import Accelerator

    Accelerator(cpu=True).save_model(net, str(folder), max_shard_size="20KB")
    assert len([*folder.glob("*.safetensors")]) > 1
    return folder / "model.safetensors.index.json"


@writer
def pickled_shards(net, folder):
    from huggingface_hub import save_torch_state_dict

    save_torch_state_dict(net.state_dict(), folder, max_shard_size="20KB", safe_serialization=False)
    assert len([*folder.glob("*.bin")]) > 1
    return folder


@writer
def ordered_with_metadata(net, folder):
    tensors = OrderedDict(net.state_dict())
    tensors._metadata = net.state_dict()._metadata
    return saved(tensors, folder)
