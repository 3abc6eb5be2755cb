"""CoCa's task: its loss in closed form and as open_clip states it, on any mesh, in parts."""

import functools

import jax
import numpy as np
import pairs
import pytest
import small

from big_vit_lite import agreement, config, tasks
from big_vit_lite.tasks import flops

PAD, START, END = 256, 257, 258
TOLERANCE = 1e-5


def make_run(batch_size=8, **fields):
    return pairs.make_run(
        batch_size=batch_size,
        model={"pool": "gap", "depth": 1},
        text={"pool": "cls", "pad_id": PAD, "depth": 1, "remat": "dots"},
        joint={"max_logit_scale": 100.0},
        decoder={"queries": 3, "pool_heads": 2},
        task={"name": "coca", **fields},
    )


@functools.cache
def found():
    """One batch: loss and metrics of the task, and the model's outputs, compiled as one."""
    run = make_run(contrastive_weight=0.7, caption_weight=1.5)
    task, mesh = pairs.make_task(run), pairs.one_device()
    params, batch = pairs.random_params(task), pairs.random_batch(run, mesh)
    params["decoder"]["head"]["kernel"] *= 5  # so that tokens weigh unlike each other

    @jax.jit
    def compute(params, batch):
        prepared = task.prepare(batch, None)
        loss, metrics = task.loss(params, prepared, jax.random.key(1))
        embeddings, out = task.model.apply({"params": params}, task.images(prepared), batch["text"])
        seen = task.image_tokens(params, batch)
        written, score = task.write(params, batch)
        of_written = task.caption_nll(params, seen, written)["caption_nll"]
        again = task.model.apply({"params": params}, seen, written, method="caption_logits")
        evaluated = {
            "alone": task.caption_nll(params, seen, batch["text"]),
            "written": (written, score, of_written, again),
        }
        return loss, metrics, (embeddings.image, embeddings.text, out["caption/logits"]), evaluated

    loss, metrics, outputs, evaluated = jax.device_get(compute(params, batch))
    outputs = [np.asarray(x, np.float64) for x in outputs]
    return loss, metrics, (*outputs, np.asarray(batch["text"])), evaluated


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def token_nll(logits, text, shift=1):
    """-log p of each token behind the first, and which of them are no padding."""
    labels = text[:, 1:]
    ahead = logits[:, :-1] if shift else logits[:, 1:]
    nll = -np.take_along_axis(log_softmax(ahead), labels[..., None], axis=2)[..., 0]
    return nll, labels != PAD


def coca_loss(logits, labels, clip_loss, clip_weight, caption_weight, pad_id):
    """open_clip's CoCaLoss: torch's CrossEntropyLoss(ignore_index=pad_id) of (b, v, l) logits, the
    mean over all labels that are not ignored; labels = text[:, 1:]."""
    by_class = np.moveaxis(logits, 1, 2)
    log_p = by_class - np.log(np.exp(by_class).sum(axis=1, keepdims=True))
    picked = [-log_p[i, label, k] for (i, k), label in np.ndenumerate(labels) if label != pad_id]
    return clip_weight * clip_loss + caption_weight * np.sum(picked) / len(picked)


def contrastive(image, text, scale):
    logits = scale * image @ text.T
    return -(np.diag(log_softmax(logits)) + np.diag(log_softmax(logits.T))).mean() / 2


def test_loss_is_the_contrastive_one_and_the_mean_over_all_tokens():
    loss, metrics, (image, words, logits, text), _ = found()
    matching = contrastive(image, words, 10.0)
    nll, counts = token_nll(logits, text)
    assert 0 < counts.sum() < counts.size and len(set(counts.sum(axis=1))) > 1
    caption = nll[counts].mean()
    assert metrics["contrastive_loss"] == pytest.approx(matching, rel=TOLERANCE)
    assert metrics["caption_loss"] == pytest.approx(caption, rel=TOLERANCE)
    assert loss == pytest.approx(0.7 * matching + 1.5 * caption, rel=TOLERANCE)
    stated = coca_loss(logits[:, :-1], text[:, 1:], matching, 0.7, 1.5, PAD)
    assert loss == pytest.approx(stated, rel=TOLERANCE)
    wrong = {
        "padding counted": nll.mean(),
        "mean of captions": np.mean([row[c].mean() for row, c in zip(nll, counts, strict=True)]),
        "sum over tokens": nll[counts].sum() / len(nll),
        "no shift": (lambda nll, counts: nll[counts].mean())(*token_nll(logits, text, shift=0)),
        "weights swapped": (1.5 * matching + 0.7 * caption - 0.7 * matching) / 1.5,
    }
    for name, other in wrong.items():
        assert abs(other - caption) > 10 * TOLERANCE * caption, name


def test_evaluation_has_the_same_numbers_by_caption():
    _, _, (_, _, logits, text), evaluated = found()
    alone = evaluated["alone"]
    nll, counts = token_nll(logits, text)
    sums = (nll * counts).sum(axis=1)
    np.testing.assert_allclose(alone["caption_nll"], sums, rtol=TOLERANCE)
    np.testing.assert_array_equal(alone["caption_tokens"], counts.sum(axis=1))


@pytest.mark.slow
def test_gradients_on_8_devices_in_parts_are_those_of_the_whole_batch_on_one(monkeypatch):
    monkeypatch.setattr("big_vit_lite.parallel.rules.MIN_FSDP_SIZE", 64)
    run = make_run(batch_size=16)
    params = pairs.random_params(pairs.make_task(run))
    wanted, told, reference = pairs.loss_and_gradients(run, {}, 1, params=params)
    sizes = {"data": 2, "fsdp": 4}
    loss, metrics, grads = pairs.loss_and_gradients(run, sizes, 8, accumulate=2, params=params)
    assert loss == pytest.approx(wanted, rel=TOLERANCE)
    # Parts have other numbers of tokens: a mean of their means is another number.
    assert metrics["caption_loss"] == pytest.approx(float(told["caption_loss"]), rel=TOLERANCE)
    assert any(name.startswith("decoder/") for name in reference)
    worst, name = small.distance(grads, reference)
    assert worst < TOLERANCE, name


def test_what_it_writes_is_the_likeliest_token_each_time():
    texts, scores, nll, logits = found()[3]["written"]
    for text, ahead in zip(texts, logits, strict=True):
        end = list(text).index(END)
        assert text[0] == START and (text[end + 1 :] == PAD).all()
        for at in range(1, min(end, pairs.LENGTH - 2) + 1):
            allowed = np.where(np.arange(ahead.shape[1]) == PAD, -np.inf, ahead[at - 1])
            assert text[at] == allowed.argmax()
    # The end at the last place is no choice: it costs its own share all the same.
    np.testing.assert_allclose(-scores, nll, rtol=1e-4)


def test_padding_of_the_text_is_that_of_the_tower():
    run = make_run()
    task = pairs.make_task(run)
    agreement.check_text(run, task)
    other = run.model_copy(update={"text": run.text.model_copy(update={"pad_id": 0})})
    with pytest.raises(config.InputError) as caught:
        agreement.check_text(other, task)
    assert str(caught.value) == (
        "text.pad_id is 0, but data.train.text pads with token 256; set text.pad_id=256."
    )


def test_flops_are_those_of_pool_and_decoder_too():
    run = make_run()
    spec = pairs.batch_spec(run, pairs.one_device())
    model = tasks.build_model(run, spec, 0, "cpu")
    image, rest = flops._traced_flops(run, spec, (8, 8))
    assert tasks.train_flops(run, model, spec) == 3 * (image + rest)
    assert image > flops._image_flops(model.img, (8, 8))
    assert rest > flops._text_flops(model.txt, pairs.LENGTH)
