"""Any arguments of any verb: understood, or refused in one sentence; never another error."""

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acclimate import cli
from acclimate.commands import VERBS

SECONDS = 20  # of a loaded machine
FLAGS = """--out --model --images --weights --data --method --methods --device --batch --size --mean
    --std --resize --resample --seed --seeds --epochs --preset --root --domain --domains --twin
    --class-names --trust-code --memory-limit --memory --shuffle --steps --update --normalisation
    --reset --answer --aftermath --objective --selection --correction --precision --one-by-one
    --update.learning-rate --update.momentum --normalisation.prior --memory.images --start
    --objective.temperature --aftermath.0.rate --align.epochs --align.batch --supervised.batch
    --views.smallest-crop --interpolation --trainable-classifier --corruptions --severities --orders
    --workers --threads --plan --curve --no-curve --preview --split --unlabelled --layout
    --image-format --published --title --json --target --transformer
    --source --labels --order --minutes --page --settings --help -h -- - --- =""".split()  # noqa: SIM905
VALUES = """none 0 1 -1 3 0.5 1e-3 nan inf -inf 1e400 99999999999999999999 2GB 0GB 1XB cta tent
    source ptbn bn-adapt adam sgd recent never batch bilinear small paper cpu cuda fog all png npy
    folders
    test shuffled acclimate:resnet8 acclimate:resnet7 torchvision:no timm: hf: a:b : :: , =
    ptbn:normalisation.prior=256 cta:update.learning_rate=0 cta: True None [] {} ' \" * ~ .
    nowhere nowhere/else /dev/null /dev/full grün.csv x.png""".split()  # noqa: SIM905
WORDS = st.one_of(
    st.sampled_from(FLAGS),
    st.sampled_from(VALUES),
    st.tuples(st.sampled_from(FLAGS), st.sampled_from(VALUES)).map("=".join),
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=12),
    st.just("9" * 5000),
    st.just("x" * 300),
    st.just(""),
)
ARGUMENTS = st.tuples(st.sampled_from([*VERBS, *VERBS, "bensh"]), st.lists(WORDS, max_size=8))
QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


class ReachedError(Exception):
    """The arguments are good, and work would begin."""


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """An empty folder. What takes no file of the user's does not begin."""

    def begin(*arguments, **options):
        raise ReachedError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("acclimate.quickstart.quickstart", begin)
    monkeypatch.setattr("acclimate.evaluate.costs.check_memory", begin)
    return tmp_path


def check(folder, capsys, verb, words):
    begun = time.monotonic()
    try:
        cli.main([verb, *words])
    except ReachedError:
        pass
    except SystemExit as stop:
        said = capsys.readouterr().err.strip()
        assert stop.code in (0, 2), (stop.code, said)
        sentence = said.startswith("acclimate: ") and "\n" not in said
        of_the_parser = "For full helptext" in said and "Traceback" not in said
        assert not stop.code or sentence or of_the_parser, said
    assert time.monotonic() - begun < SECONDS
    assert not list(folder.iterdir())
    capsys.readouterr()


@pytest.mark.filterwarnings("ignore")
@QUICK
@given(ARGUMENTS)
def test_arguments(nowhere, capsys, given):
    check(nowhere, capsys, *given)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@settings(QUICK, max_examples=8000)
@given(ARGUMENTS)
def test_many_arguments(nowhere, capsys, given):
    check(nowhere, capsys, *given)
