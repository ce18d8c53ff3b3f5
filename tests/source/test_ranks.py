import multiprocessing

import pytest
import rank_worker
import torch
from safetensors.torch import load_file

# Batch norm sees a rank's own images alone: only without it is the loss that of one process.
GROUP_NORM = [(method, "acclimate:resnet8-w8-gn") for method in ("ttt", "cta", "clust3")]
TASKS = [*GROUP_NORM, ("source", "acclimate:resnet8-w8")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What both ranks wrote."""
    folder = tmp_path_factory.mktemp("ranks")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["acclimate.source.train", "torch._dynamo"])
    ranks = [
        context.Process(target=rank_worker.as_rank, args=(rank, folder, TASKS))
        for rank in range(rank_worker.RANKS)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
        assert rank.exitcode == 0
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """What each task made on each rank."""
    return {
        task: [
            load_file(folder / f"{number}-{rank}.safetensors") for rank in range(rank_worker.RANKS)
        ]
        for number, task in enumerate(TASKS)
    }


@pytest.mark.parametrize("task", TASKS, ids="-".join)
def test_all_ranks_end_with_the_same_bits(trained, task):
    first, second = trained[task]
    differing = [name for name in first if not torch.equal(first[name], second[name])]
    assert not differing


@pytest.mark.parametrize("task", GROUP_NORM, ids="-".join)
def test_ranks_learn_what_one_process_learns(trained, task):
    found, expected = trained[task][0], rank_worker.made(*task)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_only_the_first_rank_saves(folder):
    assert (folder / "written").read_text() == "0\n"


@pytest.mark.parametrize("rank", range(rank_worker.RANKS))
def test_a_batch_that_ranks_cannot_share_evenly_is_refused(folder, rank):
    assert (folder / f"refusal-{rank}").read_text() == (
        "a batch of 7 images cannot be divided evenly among 2 processes; choose a batch that is a "
        "multiple of 2."
    )
